"""What each kind of task does around the model: cut a text, and make one outcome of its windows' outputs.

The flags of an outcome, beside those that the document itself brings from its reading:

``windowed``
    translate, embed: something that the task computes as one (a paragraph; for embed the whole text) was longer
    than the model's window, and was computed in several.
``reduced``
    summarize: the text was longer than the window; the summaries of its windows were summarised again.
``not_reduced``
    summarize: those summaries together were hardly shorter than the text, and stand one after the other.
``output_truncated``
    summarize, translate: an output stopped at the model's limit, and may lack its end.
``empty_window``
    translate: of some window the model made nothing.
``empty``
    summarize: of the whole text the model made nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from storage.outcomes import Outcome
from storage.specs import Spec
from tasks.outputs import Output
from tasks.windows import Coder, Window


@dataclass(frozen=True, slots=True)
class Traits:
    """What joining must know of the model: whether its vectors have length 1."""

    normalizes: bool = False


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
    from tasks.summarize import Summarize
    from tasks.translate import Translate

    if spec.kind == "embed":
        return Embed(normalize=traits.normalizes, keep_all=spec.params.get("windows") == "all")
    if spec.kind == "summarize":
        return Summarize()
    assert spec.kind == "translate", spec.kind
    return Translate()
