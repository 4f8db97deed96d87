"""What each kind of task does around the model: cut a text, and make one outcome of its windows' outputs.

The flags of an outcome, beside those that the document itself brings from its reading:

``windowed``
    translate, embed, generate: something that the task computes as one (a paragraph; for embed and generate the
    whole text) was longer than the model's window, and was computed in several.
``reduced``
    summarize: the text was longer than the window; the summaries of its windows were summarised again.
``not_reduced``
    summarize: those summaries together were hardly shorter than the text, and stand one after the other.
``output_truncated``
    summarize, translate, generate: an output stopped at the model's limit, and may lack its end.
``empty_window``
    translate, generate: of some window the model made nothing.
``language:fr``, ``language_uncertain``
    translate from auto: what was found; of texts of a few words the guess is unsure, and may be wrong.
``already_in_target``
    translate from auto: the text is in the language asked for, and is its own translation.
``empty``
    summarize, generate: of the whole text the model made nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from storage.outcomes import Outcome
from storage.specs import Spec
from tasks import prompts
from tasks.languages import AUTO
from tasks.outputs import Output
from tasks.windows import Coder, Readers, Window


@dataclass(frozen=True, slots=True)
class Traits:
    """What a recipe must know of the model: whether its vectors have length 1, and how it is told the language of a
    text where those are to be found."""

    normalizes: bool = False
    readers: Readers | None = None


@dataclass(frozen=True, slots=True)
class Computed:
    """A text whose windows are computed: ``outputs`` has one entry per window, None for copied ones.

    The token counts include earlier rounds; ``round`` counts from 1.
    """

    content_id: int
    text: str
    windows: Sequence[Window]
    outputs: Sequence[Output | None]
    round: int
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True, slots=True)
class Again:
    """The text is not done: compute this one next, in its place."""

    text: str
    flags: tuple[str, ...] = field(default=())


def windowed(windows: Sequence[Window]) -> tuple[str, ...]:
    """The flag of a text of which something was cut that would have been computed as one."""
    return ("windowed",) if any(window.part for window in windows) else ()


class Recipe(Protocol):
    """One kind of task under one spec; stateless, and called from several threads."""

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]: ...

    def join(self, computed: Computed) -> Outcome | Again: ...


def recipe(spec: Spec, traits: Traits) -> Recipe:
    """The recipe for a spec."""
    from tasks.embed import Embed
    from tasks.generate import Generate
    from tasks.rendered import Rendered
    from tasks.summarize import Summarize
    from tasks.translate import FromAny, Translate

    if prompts.is_rendered(spec.params):
        return Rendered()
    if spec.kind == "embed":
        return Embed(normalize=traits.normalizes, keep_all=spec.params.get("windows") == "all")
    if spec.kind == "summarize":
        return Summarize()
    if spec.kind == "generate":
        return Generate()
    assert spec.kind == "translate", spec.kind
    return FromAny.of(spec, traits.readers) if spec.params.get("source_lang") == AUTO else Translate()
