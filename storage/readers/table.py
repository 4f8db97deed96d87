"""Tables, whose columns have types that JSON lacks, read by programs in processes of their own.

Such a program opens no file: it asks for bytes, which are read here. This costs about 8 µs a row, little beside
storing the document (measured with 7 columns and 200 characters: 14 µs of CPU time in all, 6 without a process).

A process asks for bytes by {"read": [offset, n]}, or [null, n] for the next ones. It answers {"columns": [name, …]},
or {"refused": [error, why]}, and then sends rows. {"damaged": [first, last]} are rows that cannot be read. After
{"broken": why} nothing more can be read; {"end"} is the end. Rows are lines of JSON in frames. Each line is
[number, fields or the reason of a rejection, flags].
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict
from datetime import date, time, timedelta
from decimal import Decimal
from io import SEEK_CUR, SEEK_END, RawIOBase
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from math import isfinite
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias
from uuid import UUID

import orjson

from docmill.storage.core.normalize import decode
from docmill.storage.json_values import Json
from docmill.storage.readers.confinement import Confined, receive, send
from docmill.storage.readers.errors import BrokenStream, SourceError, SourceMissing, SourceUnsupported
from docmill.storage.readers.records import MAX_DEPTH, Rejection, Row, Rows, SourceOptions, check_columns, too_long
from docmill.storage.readers.streams import Expansion

if TYPE_CHECKING:
    from pyarrow import Array, RecordBatch, Scalar

    TableSegment: TypeAlias = tuple[int, Iterator[RecordBatch]]  # a number of rows, and the batches that have them

Frame: TypeAlias = tuple[dict[str, Any], bytes]
OpenTable: TypeAlias = tuple[list[str], Iterable[Frame]]  # the names of the columns, and the rows
FRAME_BYTES = 2**20  # of rows; a longer row has a frame of its own
VALUE_LEFT_OUT = "value_left_out"
_NUMPY_KINDS = frozenset("biufU")  # truth values, numbers, texts
_AS_TEXT = (Decimal, UUID, IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network)
BATCH_BYTES = 8 * 2**20
BATCH_ROWS = 1_000
_READ_BYTES = 8 * 2**20
_NO_VALUE = object()  # left out, as every value without a form in JSON
_BINARY = b""  # stands for binary data, which is left out
_REFUSALS = {error.__name__: error for error in (SourceError, SourceMissing, SourceUnsupported)}


def rows(
    process: Confined,
    request: dict[str, Any],
    stream: BinaryIO | None,
    name: str,
    options: SourceOptions,
    advice: str = "",
) -> Rows:
    """Yield the rows of a table that a process reads, in order. Damage loses the rest of its batch of rows.

    `advice` is for a user whose table ended the process before it was open. Raises SourceError, and
    BrokenStream if the process ends later.
    """
    opened = False
    with closing(process):
        try:
            for head, body in _answers(process, request, stream, options):
                if not opened:
                    if "columns" not in head:
                        kind, why = head["refused"]
                        raise _REFUSALS[kind](why)
                    check_columns(head["columns"], name, options)
                    opened = True
                yield from rows_in_frame(head, body, name)
        except BrokenStream as error:
            if opened:
                raise
            raise SourceError(f"{name}: {error}{advice}") from error


def rows_in_frame(head: dict[str, Any], body: bytes, name: str) -> Iterator[Row | Rejection]:
    """Yield the rows in one frame of the process. Raises BrokenStream for a frame that ends the reading."""
    if (broken := head.get("broken")) is not None:
        raise BrokenStream(broken)
    if (damaged := head.get("damaged")) is not None:
        first, last = damaged
        yield Rejection(f"{name}:{first}", f"the file is damaged: rows {first:,} to {last:,} cannot be read")
    for line in body.splitlines():
        number, fields, flags = orjson.loads(line)
        where = f"{name}:{number}"
        if isinstance(fields, str):
            yield Rejection(where, fields)
        else:
            yield Row(fields, where, tuple(flags), clean=b"\\u0000" not in line)


def _answers(
    process: Confined, request: dict[str, Any], stream: BinaryIO | None, options: SourceOptions
) -> Iterator[Frame]:
    """Yield the process's answers about the table, and send it the bytes that it asks for. Raises BrokenStream."""
    process.send(request | {"options": asdict(options)})
    n_read, expansion = 0, Expansion("save it as JSON lines")
    while True:
        head, body = process.receive(options.max_record_bytes + FRAME_BYTES)
        if stream is not None:
            expansion.add(n_read, len(body), body.count(b"\n"))
        if (place := head.get("read")) is not None:
            assert stream is not None
            offset, n = place
            if offset is not None:
                stream.seek(max(0, offset))
            raw = stream.read(max(0, min(n, _READ_BYTES)))
            n_read += len(raw)
            process.send({}, raw)
        elif "end" in head:
            return
        else:
            yield head, body


class _Unfit(Exception):
    """A value has no form in JSON; the message names its type."""


def as_row(fields: Mapping[str, Any], where: str, options: SourceOptions) -> Row | Rejection:
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
    return Row(kept, where, flags, clean=False)


def _json(value: object, depth: int) -> Json:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, float):
        return float(value) if isfinite(value) else None  # NumPy's are of another class
    if isinstance(value, date | time):
        return value.isoformat() if value == value else None  # pandas.NaT differs from itself
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
    if isinstance(value, set | frozenset):  # a set's order differs between processes
        return sorted((_json(inner, depth - 1) for inner in value), key=json.dumps)  # also with surrogates
    if isinstance(value, list | tuple):
        return [_json(inner, depth - 1) for inner in value]
    if getattr(getattr(value, "dtype", None), "kind", None) in _NUMPY_KINDS:
        return _json(value.tolist(), depth - 1)  # type: ignore[attr-defined]
    raise _Unfit("of a type that is not read")


def load() -> None:
    """Import pyarrow with an allocator that needs little of the process's memory."""
    # pyarrow's other allocators reserve more memory than this process may have.
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    import pyarrow

    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)


class PipedFile(RawIOBase):
    """A file whose bytes the parent process reads. Without a size it is read once, in order."""

    def __init__(self, size: int | None) -> None:
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._size is not None

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        assert self._size is not None
        self._at = offset + {SEEK_CUR: self._at, SEEK_END: self._size}.get(whence, 0)
        return self._at

    def read(self, n: int = -1) -> bytes:
        left = n if n >= 0 else sys.maxsize
        if self._size is not None:
            left = min(left, max(0, self._size - self._at))
        pieces = []
        while left:
            place = None if self._size is None else self._at
            send(sys.stdout.buffer, {"read": [place, min(left, _READ_BYTES)]})
            answer = receive(sys.stdin.buffer)
            if answer is None or not answer[1]:
                break
            pieces.append(answer[1])
            left -= len(answer[1])
            self._at += len(answer[1])
        return b"".join(pieces)


def serve(open_table: Callable[[], OpenTable], out: BinaryIO) -> None:
    """Send a table's rows, or the SourceError that `open_table` raises.

    The frames raise BrokenStream if nothing more of the table can be read.
    """
    try:
        columns, answers = open_table()
    except SourceError as error:
        send(out, {"refused": [type(error).__name__, str(error)]})
        return
    send(out, {"columns": columns})
    try:
        for head, body in answers:
            send(out, head, body)
    except BrokenStream as error:
        send(out, {"broken": str(error)})
    else:
        send(out, {"end": True})


def in_frames(
    segments: Iterator[TableSegment], options: SourceOptions, as_json: frozenset[str] = frozenset()
) -> Iterator[Frame]:
    """Yield the segments of a table as frames. Damage costs the rest of a segment only.

    `as_json` are the columns of JSON text.
    """
    first = 1
    for n_rows, batches in segments:
        number = first
        try:
            for batch in batches:
                for frame in framed(_lines(batch, number, options, as_json)):
                    yield {}, frame
                number += batch.num_rows
        except Exception:  # whatever the library raises on damage
            yield {"damaged": [number, first + n_rows - 1]}, b""
        first += n_rows


def slices(batch: RecordBatch) -> Iterator[RecordBatch]:
    """Yield a batch in slices of as many rows as become Python objects at once."""
    step = batch_rows(batch.nbytes, batch.num_rows)
    return (batch.slice(start, step) for start in range(0, batch.num_rows, step))


def batch_rows(n_bytes: int, n_rows: int) -> int:
    """Return the number of rows to convert to Python objects at once."""
    row_bytes = n_bytes // max(1, n_rows)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, row_bytes)))


def framed(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines in frames."""
    frame = bytearray()
    for line in lines:
        frame += line + b"\n"
        if len(frame) >= FRAME_BYTES // 2:
            yield bytes(frame)
            frame.clear()
    yield bytes(frame)


def _lines(batch: RecordBatch, first: int, options: SourceOptions, as_json: frozenset[str]) -> Iterator[bytes]:
    for number, row in enumerate(rows_in_batch(batch, first, "", options, as_json), first):
        if isinstance(row, Rejection):
            yield orjson.dumps([number, row.reason, []])
        else:
            yield row_line(number, row.fields, row.flags, options.max_record_bytes)


def rows_in_batch(
    batch: RecordBatch, first: int, name: str, options: SourceOptions, as_json: frozenset[str]
) -> Iterator[Row | Rejection]:
    """Yield the rows of a record batch; `first` is the number of the first, and `name` the table's in messages."""
    names: list[str] = batch.schema.names
    mended: dict[int, tuple[str, ...]] = {}
    columns = [
        [_parse_json(value) for value in values] if name in as_json else values
        for name, values in ((name, _values(column, mended)) for name, column in zip(names, batch, strict=True))
    ]
    for n, values in enumerate(zip(*columns, strict=True)):
        row = as_row(dict(zip(names, values, strict=True)), f"{name}:{first + n}", options)
        if n in mended and isinstance(row, Row):
            row = row._replace(flags=(*mended[n], *row.flags))
        yield row


def row_line(number: int, fields: dict[str, Any], flags: tuple[str, ...], max_bytes: int) -> bytes:
    """Return a row as a line; a row with more bytes is rejected."""
    line = orjson.dumps([number, fields, flags])
    return orjson.dumps([number, too_long(max_bytes), []]) if len(line) > max_bytes else line


def _values(column: Array, mended: dict[int, tuple[str, ...]]) -> list[Any]:
    """Return the column's values as Python objects; a value without a Python form, such as nanoseconds, as text."""
    binary = _binary(column)
    if binary is not None:
        return [_BINARY if valid else None for valid in binary.is_valid().to_pylist()]
    try:
        values: list[Any] = column.to_pylist()
    except Exception:  # one value failed; it is found below
        values = []
        for n, scalar in enumerate(column):
            value, flags = _value(scalar)
            values.append(value)
            if flags:
                mended[n] = mended.get(n, ()) + flags
    return values


def _binary(column: Array) -> Array | None:
    """Return the binary data of a column, which is left out; None for other columns.

    Pictures and sounds are a struct with a field "bytes".
    """
    import pyarrow

    types = pyarrow.types
    kind = column.type
    if types.is_struct(kind) and (place := kind.get_field_index("bytes")) >= 0:
        column = column.flatten()[place]
        kind = column.type
    tests = (types.is_binary, types.is_large_binary, types.is_binary_view)
    return column if any(test(kind) for test in tests) else None


def _value(scalar: Scalar) -> tuple[Any, tuple[str, ...]]:
    import pyarrow

    with suppress(Exception):
        return scalar.as_py(), ()
    with suppress(Exception):
        if pyarrow.types.is_temporal(scalar.type):
            return str(scalar.cast(pyarrow.string())).replace(" ", "T", 1), ()
    with suppress(Exception):
        return decode(scalar.as_buffer().to_pybytes())
    return _NO_VALUE, ()


def _parse_json(value: str | None) -> Json:
    try:
        parsed: Json = value if value is None else orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
    return parsed
