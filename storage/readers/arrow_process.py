"""The process that reads an Arrow or a Parquet file.

It gets the size of a Parquet file, whose bytes it asks for in any order. Those of an Arrow file it asks for in order.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from io import RawIOBase
from typing import TYPE_CHECKING, BinaryIO

from docmill.storage.readers import confinement
from docmill.storage.readers.confinement import Needs
from docmill.storage.readers.records import SourceOptions
from docmill.storage.readers.sandbox import confine, receive
from docmill.storage.readers.table_process import AskedFor, CutShort, Table, batch_rows, load, serve, slices

if TYPE_CHECKING:
    from pyarrow import RecordBatch, ipc
    from pyarrow.parquet import ParquetFile

    from docmill.storage.readers.table_process import Part

_MAGIC = b"ARROW1\0\0"  # before the stream in a file with a footer
_PAGE_BUFFER = 2**20  # for each column, so that a row group is never in memory as a whole


def main() -> None:
    confinement.restrict_files(Needs())
    load()
    confine()
    asked = receive(sys.stdin.buffer)
    assert asked is not None
    head, _ = asked
    size, options = head["bytes"], SourceOptions(**head["options"])
    source = AskedFor(size)
    serve(partial(arrow, source) if size is None else partial(parquet, source, options), options, sys.stdout.buffer)


class _Stream(RawIOBase):
    """A source as pyarrow reads it, which knows if it has ended."""

    def __init__(self, source: BinaryIO | AskedFor) -> None:
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


def arrow(source: BinaryIO | AskedFor) -> Table:
    """Return an Arrow file. Each batch of rows is a part, since damage is found before it is used."""
    from pyarrow import ipc

    stream = _Stream(source)
    reader = ipc.open_stream(stream)
    return Table(reader.schema.names, _batches(stream, reader))


def _batches(stream: _Stream, reader: ipc.RecordBatchStreamReader) -> Iterator[Part]:
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            if stream.ended:
                # pyarrow takes the end of the file for the end mark; then a file that was cut short would seem whole.
                raise CutShort("the file ends before its end mark") from None
            return
        except Exception as error:  # whatever the library raises on a file that it cannot read
            raise CutShort("the file is damaged") from error
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


def parquet(source: BinaryIO | AskedFor, options: SourceOptions) -> Table:
    """Return a Parquet file, whose parts are its row groups."""
    from pyarrow.parquet import ParquetFile

    file = ParquetFile(source, buffer_size=_PAGE_BUFFER, pre_buffer=False)
    leaves = (file.schema.column(n) for n in range(len(file.schema)))
    as_json = {leaf.path for leaf in leaves if leaf.logical_type.type == "JSON"}
    groups = ((file.metadata.row_group(n).num_rows, _group(file, n)) for n in range(file.num_row_groups))
    return Table(file.schema_arrow.names, groups, frozenset(as_json - {options.text_field, options.id_field}))


def _group(file: ParquetFile, group: int) -> Iterator[RecordBatch]:
    said = file.metadata.row_group(group)
    n_bytes = sum(said.column(n).total_uncompressed_size for n in range(said.num_columns))
    rows = batch_rows(n_bytes, said.num_rows)
    yield from file.iter_batches(batch_size=rows, row_groups=[group], use_threads=False)


if __name__ == "__main__":
    main()
