"""Arrow files (https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc),
as `datasets` saves them, and Parquet, read by pyarrow (an extra) in a process of its own.

pyarrow trusts the lengths in a file and may crash on it. A small Parquet file can expand to any size: a page of
zeros, or one text that is repeated a billion times.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from io import RawIOBase
from typing import TYPE_CHECKING, BinaryIO

from docmill.storage.readers import table
from docmill.storage.readers.confinement import Confined, begin
from docmill.storage.readers.errors import BrokenStream, SourceError, SourceUnsupported
from docmill.storage.readers.records import Rows, SourceOptions
from docmill.storage.readers.table import OpenTable, PipedFile, batch_rows, in_frames, load, serve, slices

if TYPE_CHECKING:
    from pyarrow import RecordBatch, ipc
    from pyarrow.parquet import ParquetFile

    from docmill.storage.readers.table import TableSegment

_MAGIC = b"ARROW1\0\0"  # before the stream in a file with a footer
_PAGE_BUFFER = 2**20  # for each column, so that a row group is never in memory as a whole


def rows(stream: BinaryIO, name: str, options: SourceOptions) -> Rows:
    """Yield the file's rows in order, from a stream (`.arrow` of `datasets`) or a file with a footer (Feather).

    The file is read once, so that the rows before damage are there. Raises SourceError, and BrokenStream if
    the process or the file ends early.
    """
    return table.rows(Confined(__name__), {"name": name, "bytes": None}, stream, name, options)


def parquet_rows(stream: BinaryIO, name: str, options: SourceOptions) -> Rows:
    """Yield the file's rows in order. Damage loses the rest of its row group.

    Raises SourceError, and BrokenStream if the process ends early.
    """
    if not stream.seekable():
        raise SourceUnsupported(f"{name}: Parquet is read from its end; take off a compression around it")
    size = stream.seek(0, os.SEEK_END)
    return table.rows(Confined(__name__), {"name": name, "bytes": size}, stream, name, options)


def main() -> None:
    """Read one file."""
    head = begin(load)
    options = SourceOptions(**head["options"])
    serve(partial(_open, head["name"], head["bytes"], options), sys.stdout.buffer)


def _open(name: str, size: int | None, options: SourceOptions) -> OpenTable:
    """Return a file's table. The bytes of Parquet, whose size is known, are asked for in any order."""
    source = PipedFile(size)
    try:
        return arrow(source, options) if size is None else parquet(source, options)
    except Exception as error:  # whatever the library raises on a file that it cannot read
        kind = "Arrow" if size is None else "Parquet"
        raise SourceError(f"{name} is damaged, or no {kind} file") from error


class _Stream(RawIOBase):
    """A source as pyarrow reads it, which knows if it has ended."""

    def __init__(self, source: BinaryIO | PipedFile) -> None:
        self._source = source
        start = source.read(len(_MAGIC))
        self._ahead = b"" if start == _MAGIC else start
        self.ended = False

    def readable(self) -> bool:
        return True

    def read(self, n: int = -1) -> bytes:
        ahead, self._ahead = self._ahead[:n], self._ahead[n:]
        data = ahead + (self._source.read(n - len(ahead)) if len(ahead) < n else b"")
        self.ended = len(data) < n
        return data


def arrow(source: BinaryIO | PipedFile, options: SourceOptions) -> OpenTable:
    """Return an Arrow file. Each batch of rows is a segment, since damage is found before it is used."""
    from pyarrow import ipc

    stream = _Stream(source)
    reader = ipc.open_stream(stream)
    return reader.schema.names, in_frames(_batches(stream, reader), options)


def _batches(stream: _Stream, reader: ipc.RecordBatchStreamReader) -> Iterator[TableSegment]:
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            if stream.ended:
                # pyarrow takes the end of the file for the end mark; then a file that was cut short would seem whole.
                raise BrokenStream("the file ends before its end mark") from None
            return
        except Exception as error:  # whatever the library raises on a file that it cannot read
            raise BrokenStream("the file is damaged") from error
        yield batch.num_rows, _validated(batch)


def _validated(batch: RecordBatch) -> Iterator[RecordBatch]:
    """Yield the batch's slices. Raises if a length or an index leads out of its buffer.

    Bytes that are not UTF-8 are mended later.
    """
    import pyarrow

    as_binary = {pyarrow.string(): pyarrow.binary(), pyarrow.large_string(): pyarrow.large_binary()}
    for column in batch:
        kind = as_binary.get(column.type)
        column.validate()
        (column if kind is None else column.view(kind)).validate(full=True)
    yield from slices(batch)


def parquet(source: BinaryIO | PipedFile, options: SourceOptions) -> OpenTable:
    """Return a Parquet file, whose segments are its row groups."""
    from pyarrow.parquet import ParquetFile

    file = ParquetFile(source, buffer_size=_PAGE_BUFFER, pre_buffer=False)
    leaves = (file.schema.column(n) for n in range(len(file.schema)))
    as_json = {leaf.path for leaf in leaves if leaf.logical_type.type == "JSON"}
    groups = ((file.metadata.row_group(n).num_rows, _group(file, n)) for n in range(file.num_row_groups))
    as_json -= {options.text_field, options.id_field}
    return file.schema_arrow.names, in_frames(groups, options, frozenset(as_json))


def _group(file: ParquetFile, group: int) -> Iterator[RecordBatch]:
    said = file.metadata.row_group(group)
    n_bytes = sum(said.column(n).total_uncompressed_size for n in range(said.num_columns))
    rows = batch_rows(n_bytes, said.num_rows)
    yield from file.iter_batches(batch_size=rows, row_groups=[group], use_threads=False)


if __name__ == "__main__":
    main()
