"""JSON lines: one object a line, UTF-8."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import isfinite
from typing import BinaryIO, NoReturn

import orjson

from docmill.storage.core.normalize import bom_length, decode, normalize_json
from docmill.storage.json_values import Json
from docmill.storage.readers.records import MAX_DEPTH, Rejection, Row, Rows, SourceOptions, keys_of, too_long
from docmill.storage.readers.streams import lines

_NESTED = (dict, list)
_MOST_VALUES = 10_000_000  # of a record: each takes a hundred bytes of memory, and may take two of a line
_MARK = re.compile(r"\s*[{,]\s*")  # before a field's name
_COLON = re.compile(r"\s*:\s*")


def rows(stream: BinaryIO, name: str, options: SourceOptions) -> Rows:
    """Yield the stream's objects. Blank lines are skipped, and count in line numbers."""
    offset = 0
    for number, raw in enumerate(lines(stream, options.max_record_bytes), 1):
        where = f"{name}:{number}"
        if isinstance(raw, int):
            offset += raw
            yield Rejection(where, too_long(options.max_record_bytes))
            continue
        flags: tuple[str, ...] = ()
        offset += len(raw)
        if len(raw) > _MOST_VALUES and raw.count(b",") > _MOST_VALUES:
            yield Rejection(where, f"more than {_MOST_VALUES:,} values in one record")
            continue
        line = raw[bom_length(raw) :] if number == 1 else raw
        # orjson refuses lone surrogates and control characters; only an escaped NUL passes.
        clean = b"\\" not in line or b"\\u0000" not in line
        try:
            fields = orjson.loads(line)
            _check_shape(fields)
        except ValueError:
            if line.isspace() or not line:
                continue
            try:
                fields, flags = _read_again(line, offset - len(line))
            except ValueError as error:
                yield Rejection(where, str(error), keys=_keys(line, name, where, options))
                continue
            clean = False
        yield Row(fields, where, flags, clean)


def _read_again(line: bytes, start: int) -> tuple[dict[str, Json], tuple[str, ...]]:
    """Parse a line that orjson refuses. Invalid UTF-8 and lone surrogates are mended.

    Raises ValueError, with the reason, for a line that is no JSON object that a database can store.
    """
    text, flags = decode(line, start)
    try:
        fields = json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_within_64_bits)
    except json.JSONDecodeError as error:
        said = error.msg.removesuffix(" at")  # the end of some of its messages
        raise ValueError(f"not JSON: {said} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep") from error
    _check_shape(fields)
    return fields, flags


def _keys(line: bytes, name: str, where: str, options: SourceOptions) -> tuple[str, ...]:
    """Return the keys that a line of broken JSON may have, from the ids before the first error in it."""
    fields = [normalize_json({options.id_field: value})[0] for value in _ids(decode(line, 0)[0], options.id_field)]
    return tuple(key for record in fields for key in keys_of(record, name, where, options))


def _ids(text: str, id_field: str) -> Iterator[Json]:
    """Yield each value of a field of the outermost object, up to where it is no JSON any more."""
    decoder, end = json.JSONDecoder(), 0
    try:
        while mark := _MARK.match(text, end):
            name, end = decoder.raw_decode(text, mark.end())
            colon = _COLON.match(text, end)
            if colon is None or not isinstance(name, str):
                return
            value, end = decoder.raw_decode(text, colon.end())
            if name == id_field:
                yield value
    except (ValueError, RecursionError):
        return


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"not JSON: {constant} is no JSON value")


def _finite(digits: str) -> float:
    value = float(digits)
    if not isfinite(value):
        raise ValueError("a number too large for a 64-bit float")
    return value


def _within_64_bits(digits: str) -> int | float:
    """Return the number as orjson parses it, so that both parsers give the same."""
    try:
        value = int(digits)
    except ValueError as error:  # Python limits the digits
        raise ValueError("not JSON: a number with too many digits") from error
    return value if -(2**63) <= value < 2**64 else _finite(digits)


def _check_shape(fields: Json) -> None:
    if not isinstance(fields, dict):
        kind = "an array" if isinstance(fields, list) else "a single value"
        raise ValueError(f"{kind} where an object is expected")
    level = list(fields.values())
    for _ in range(MAX_DEPTH):
        nested = [
            outer.values() if isinstance(outer, dict) else outer for outer in level if isinstance(outer, _NESTED)
        ]
        level = [inner for outer in nested for inner in outer]
        if not level:
            return
    raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
