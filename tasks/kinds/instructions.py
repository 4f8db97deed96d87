"""The instruction of a decoder-only model for a spec: the user's, or the built-in instruction of the kind of task."""

from __future__ import annotations

from dataclasses import dataclass

from storage.core.specs import Spec
from tasks import kinds
from tasks.errors import CannotServe
from tasks.prompts import Template, around, is_rendered

# Version of the built-in instructions, and part of the specs that use them.
INSTRUCTIONS = 2
# A base model goes on with the next line of the pattern unless it is stopped at the end of this one.
LINE_END = "\n"


@dataclass(frozen=True)
class Instruction:
    """A template, a system prompt if there is one, and texts that end the output."""

    template: Template
    system: str | None = None
    stop: tuple[str, ...] = ()


def instruction(spec: Spec, *, chat: bool, shown: bool = True) -> Instruction:
    """Return the instruction of a spec for a model that follows instructions (``chat``), or for a base model.

    A base model sees demonstrations first, unless they are not to be ``shown``.

    Raises CannotServe for a translation without languages, and for a kind without built-in words.
    """
    stop = tuple(spec.params.get("stop") or ())
    system = spec.params.get("system")
    asked = spec.params.get("prompt")
    if asked is not None:
        template = Template("", "") if is_rendered(spec.params) else around(asked)
        return Instruction(template, system, stop)
    built_in = kinds.kind(spec.kind).built_in
    if built_in is None:
        raise CannotServe(f"{spec.kind} has no built-in instructions: give --prompt.")
    if chat:
        return Instruction(built_in.chat(spec), system, stop)
    return Instruction(built_in.pattern(spec, shown), system, stop or (LINE_END,))
