"""The kinds of task: one module and one line of `KINDS` each. Lanes, commands, help and checks derive from them."""

from __future__ import annotations

from storage.specs import Spec
from tasks import prompts
from tasks.errors import UnknownKind
from tasks.kinds.base import Recipe, TaskKind, Traits
from tasks.kinds.embed import EMBED
from tasks.kinds.generate import GENERATE
from tasks.kinds.prerendered import Prerendered
from tasks.kinds.summarize import SUMMARIZE
from tasks.kinds.translate import TRANSLATE

KINDS: tuple[TaskKind, ...] = (
    SUMMARIZE,
    TRANSLATE,
    EMBED,
    GENERATE,
)
NAMES: tuple[str, ...] = tuple(one.name for one in KINDS)
_BY_NAME = {one.name: one for one in KINDS}


def kind(name: str) -> TaskKind:
    """Return the kind of this name. Raises UnknownKind."""
    if name not in _BY_NAME:
        raise UnknownKind(f"No such task: {name}; there are {', '.join(NAMES)}.")
    return _BY_NAME[name]


def recipe(spec: Spec, traits: Traits) -> Recipe:
    """Return the recipe for a spec. Raises UnknownKind."""
    found = kind(spec.kind)
    return Prerendered() if prompts.is_rendered(spec.params) else found.recipe(spec, traits)


__all__ = ["KINDS", "NAMES", "Recipe", "TaskKind", "Traits", "kind", "recipe"]
