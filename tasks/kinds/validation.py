"""Explain pydantic's errors in docmill's words: the fault of a value, and the expected values."""

from __future__ import annotations

from typing import Any

from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

_SHOWN_CHARS = 40
_EXPECTED = {
    "string_type": "a text in quotes",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": 'a list of texts, such as ["a", "b"]',
}
EMPTY = "is empty; fill it in or leave it out"
WRONG_TYPE = frozenset(_EXPECTED)


def sentence(error: ErrorDetails, field: FieldInfo) -> str:
    """Return the error of one field as the end of a sentence that begins with the field's name."""
    kind, value = error["type"], error["input"]
    if len(error["loc"]) > 1 and kind == "string_type":  # an element of a list
        kind, value = "tuple_type", [value]
    if kind == "int_type" and isinstance(value, float) and abs(value) >= 2**63 and _is_bounded(field):
        return _bounds(value, field)  # a whole number that JSON readers hold as a float
    if kind in _EXPECTED:
        return f"must be {_EXPECTED[kind]}, not {shown(value)}"
    if kind in {"string_too_short", "too_short"}:
        return f"must have at least {error['ctx']['min_length']} characters" if value else EMPTY
    if kind == "literal_error":
        return f"must be {error['ctx']['expected'].replace(chr(39), '')}, not {shown(value)}"
    if kind in {"greater_than", "greater_than_equal", "less_than_equal"}:
        return _bounds(value, field)
    return error["msg"]


def shown(value: object) -> str:
    """Return a value as a sentence may show it: short, and on one line."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(value)
    return repr(value if len(value) <= _SHOWN_CHARS else value[:_SHOWN_CHARS] + "…")


def _is_bounded(field: FieldInfo) -> bool:
    return any(isinstance(note, Le) for note in field.metadata)


def _bounds(value: float, field: FieldInfo) -> str:
    least: Any = next((note.ge for note in field.metadata if isinstance(note, Ge)), None)
    above: Any = next((note.gt for note in field.metadata if isinstance(note, Gt)), None)
    most: Any = next((note.le for note in field.metadata if isinstance(note, Le)), None)
    if above is not None:
        return f"must be above {above:g} and at most {most:g}"
    return f"must be at least {least:g}" if value < least != -most else f"must be between {least:,} and {most:,}"
