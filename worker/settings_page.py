"""docs/settings.md, made of the settings' definitions. `make settings-page` writes it; a test compares the two."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from worker.settings import PREFIX, Settings, Shown

HEAD = """\
# Settings

<!-- Written by `make settings-page` from worker/settings.py. Change them there. -->

Everything that a docmill process can be told, from options, `DOCMILL_*` variables, or a `.env` file in the folder
where it is started, in this order. Unknown and bad ones are errors, listed together. An empty value is an error, too:
leave a variable out to have the default.

| variable | what | values | default |
| --- | --- | --- | --- |
"""
WORDS = {int: "whole number", float: "number"}


def page() -> str:
    """The page's text."""
    return HEAD + "".join(_row(name, field) for name, field in Settings.model_fields.items())


def _row(name: str, field: FieldInfo) -> str:
    cells = (f"`{PREFIX}{name.upper()}`", field.description or "", _values(field), _default(field))
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"


def _shown(field: FieldInfo) -> Shown:
    return next((note for note in field.metadata if isinstance(note, Shown)), Shown())


def _values(field: FieldInfo) -> str:
    kind = field.annotation
    if choices := _shown(field).choices or (get_args(kind) if get_origin(kind) is Literal else ()):
        return ", ".join(f"`{choice}`" for choice in choices)
    if kind in WORDS:
        return f"{WORDS[kind]}{_bounds(field)}"
    if get_origin(kind) is tuple:
        return "paths" if Path in get_args(kind) else "texts"
    return "path" if Path in {kind, *get_args(kind)} else "text"


def _bounds(field: FieldInfo) -> str:
    least = next((note.ge for note in field.metadata if isinstance(note, Ge)), None)
    above = next((note.gt for note in field.metadata if isinstance(note, Gt)), None)
    most = next((note.le for note in field.metadata if isinstance(note, Le)), None)
    if least is not None:
        return f", {least} to {most}" if most is not None else f", {least} or more"
    return f" above {above}" if above is not None else ""


def _default(field: FieldInfo) -> str:
    if words := _shown(field).default:
        return words
    if field.default is None:
        return "none"
    return f"{field.default:g}" if isinstance(field.default, float | int) else f"`{field.default}`"


if __name__ == "__main__":
    sys.stdout.write(page())
