"""Lists of objects with fixed fields in the `data` of an output, such as labels and spans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from docmill.storage.outputs.base import Stored
from docmill.storage.outputs.columns import Form

SHOWN = 20  # labels, spans or properties in a line
_FIELD_FORMS: Mapping[type, Form] = {str: Form.TEXT, int: Form.INTEGER, float: Form.NUMBER}


def forms_of(fields: Mapping[str, type]) -> Mapping[str, Form]:
    return {name: _FIELD_FORMS[type_] for name, type_ in fields.items()}


def in_order(items: Iterable[Mapping[str, Any]], fields: Mapping[str, type]) -> list[dict[str, Any]]:
    """Return the items with their fields in this order, which PostgreSQL does not keep."""
    return [{name: item[name] for name in fields} for item in items]


def items_of(stored: Stored, key: str, fields: Mapping[str, type]) -> Sequence[Mapping[str, Any]] | None:
    """Return the list under a key of an output's data; None unless it is one of objects with just these fields."""
    items = stored.data.get(key) if isinstance(stored.data, dict) else None
    if stored.vector is not None or not isinstance(items, list):
        return None
    right = all(
        isinstance(item, dict)
        and item.keys() == fields.keys()
        and all(isinstance(item[name], type_) for name, type_ in fields.items())
        for item in items
    )
    return items if right else None


def line_of(items: Iterable[str]) -> str:
    shown = list(items)
    return ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN:,} more" if len(shown) > SHOWN else "")
