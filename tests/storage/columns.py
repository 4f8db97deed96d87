"""Columns of tables that tests write without a job."""

from __future__ import annotations

from docmill.storage.outputs.columns import Column, Form

_FORMS = {
    "tokens_in": Form.INTEGER,
    "tokens_out": Form.INTEGER,
    "flags": Form.TEXTS,
    "meta": Form.JSON,
    "vector": Form.VECTOR,
    "windows": Form.OFFSETS,
}


def table_of(*names: str) -> list[Column]:
    """Return the columns of these keys of results; those that are not listed above are texts."""
    return [Column.of(name, _FORMS.get(name, Form.TEXT)) for name in names]
