"""The shared part of the processes that read tables with pyarrow: start, requests for bytes, and answers.

A process asks for bytes by {"read": [offset, n]}, or [null, n] for the next ones. It answers {"columns": [name, …]},
or {"error"} for another kind of file, and then sends rows. {"damaged": [first, last]} are rows that cannot be read.
After {"broken": why} nothing more can be read; {"end"} is the end.

Rows are lines of JSON in frames. Each line is [number, fields or the reason of a rejection, flags].
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import SEEK_CUR, SEEK_END, RawIOBase
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import orjson

from docmill.storage.core.normalize import decode
from docmill.storage.json_values import Json
from docmill.storage.readers.records import Rejection, SourceOptions, too_long
from docmill.storage.readers.sandbox import receive, send
from docmill.storage.readers.table import FRAME_BYTES
from docmill.storage.readers.values import as_row

if TYPE_CHECKING:
    from pyarrow import Array, RecordBatch, Scalar

    Part: TypeAlias = tuple[int, Iterator[RecordBatch]]  # a number of rows, and the batches that have them

BATCH_BYTES = 8 * 2**20
BATCH_ROWS = 1_000
_READ_BYTES = 8 * 2**20

_NO_VALUE = object()  # left out, as every value without a form in JSON
_BINARY = b""  # stands for binary data, which is left out


def load() -> None:
    """Import pyarrow with an allocator that needs little of the process's memory."""
    # pyarrow's other allocators reserve more memory than this process may have.
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    import pyarrow

    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)


class AskedFor(RawIOBase):
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


@dataclass(frozen=True)
class Table:
    """A table that was opened. Damage costs the rest of a part only. `as_json` are the columns of JSON text."""

    columns: list[str]
    parts: Iterator[Part]
    as_json: frozenset[str] = frozenset()


class CutShort(Exception):
    """Nothing more of the table can be read; the message is the reason."""


def serve(open_table: Callable[[], Table], options: SourceOptions, out: BinaryIO) -> None:
    """Send a table's rows."""
    try:
        table = open_table()
    except Exception as error:  # whatever the library raises on a file that it cannot read
        send(out, {"error": type(error).__name__})
        return
    send(out, {"columns": table.columns})
    first = 1
    try:
        for n_rows, batches in table.parts:
            number = first
            try:
                for batch in batches:
                    for frame in frames(batch, number, options, table.as_json):
                        send(out, {}, frame)
                    number += batch.num_rows
            except Exception:  # as above
                send(out, {"damaged": [number, first + n_rows - 1]})
            first += n_rows
    except CutShort as error:
        send(out, {"broken": str(error)})
    else:
        send(out, {"end": True})


def slices(batch: RecordBatch) -> Iterator[RecordBatch]:
    """Yield a batch in slices of as many rows as become Python objects at once."""
    step = batch_rows(batch.nbytes, batch.num_rows)
    return (batch.slice(start, step) for start in range(0, batch.num_rows, step))


def batch_rows(n_bytes: int, n_rows: int) -> int:
    """Return the number of rows to convert to Python objects at once."""
    row_bytes = n_bytes // max(1, n_rows)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, row_bytes)))


def frames(batch: RecordBatch, first: int, options: SourceOptions, as_json: frozenset[str]) -> Iterator[bytes]:
    """Yield a record batch as frames; `first` is the number of its first row."""
    return framed(_lines(batch, first, options, as_json))


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
    names: list[str] = batch.schema.names
    mended: dict[int, tuple[str, ...]] = {}
    columns = [
        [_parsed(value) for value in values] if name in as_json else values
        for name, values in ((name, _values(column, mended)) for name, column in zip(names, batch, strict=True))
    ]
    for n, values in enumerate(zip(*columns, strict=True)):
        row = as_row(dict(zip(names, values, strict=True)), first + n, "", options)
        if isinstance(row, Rejection):
            yield orjson.dumps([first + n, row.reason, []])
            continue
        yield row_line(first + n, row.fields, (*mended.get(n, ()), *row.flags), options.max_record_bytes)


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


def _parsed(value: str | None) -> Json:
    try:
        parsed: Json = value if value is None else orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
    return parsed
