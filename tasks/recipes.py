"""What each kind of task does around the model: cut a text, and make one outcome of its windows' outputs."""

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
