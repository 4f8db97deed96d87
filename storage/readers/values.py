"""Convert rows of tables, whose columns have types that JSON lacks, to the fields of a record."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from math import isfinite
from typing import Any
from uuid import UUID

from docmill.storage.json_values import Json
from docmill.storage.readers.records import MAX_DEPTH, Rejection, Row, SourceOptions

VALUE_LEFT_OUT = "value_left_out"
_NUMPY_KINDS = frozenset("biufU")  # truth values, numbers, texts
_AS_TEXT = (Decimal, UUID, IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network)


class _Unfit(Exception):
    """A value has no form in JSON; the message names its type."""


def as_row(fields: Mapping[str, Any], number: int, where: str, options: SourceOptions) -> Row | Rejection:
    """Return a table's row with JSON types: dates in ISO 8601, decimals and UUIDs as text, intervals in seconds,
    null for NaN and infinity, and NumPy's numbers and arrays as JSON has them.

    Binary data and other values without a form are left out, and the record is flagged `value_left_out`. If the text
    or the id is such a value, the record is rejected.
    """
    kept: dict[str, Any] = {}
    flags: tuple[str, ...] = ()
    for name, value in fields.items():
        try:
            kept[name] = _json(value, MAX_DEPTH)
        except _Unfit as error:
            if name in {options.text_field, options.id_field}:
                return Rejection(where, f'"{name}" is {error}')
            flags = (VALUE_LEFT_OUT,)
    return Row(kept, number, where, flags, clean=False)


def _json(value: object, depth: int) -> Json:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, _AS_TEXT):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        raise _Unfit("binary data, not a string")
    return _nested(value, depth)


def _nested(value: object, depth: int) -> Json:
    if not depth:
        raise _Unfit(f"nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        return {str(name): _json(inner, depth - 1) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_json(inner, depth - 1) for inner in value]
    if getattr(getattr(value, "dtype", None), "kind", None) in _NUMPY_KINDS:
        return _json(value.tolist(), depth - 1)  # type: ignore[attr-defined]
    raise _Unfit("of a type that is not read")
