"""The process that reads a Parquet file.

It gets the file's size and the options of reading, and asks for bytes by {"read": [offset, n]}. It answers
{"columns": [name, …]}, or {"error"} for another kind of file, and then sends rows. {"damaged": [first, last]} is a
row group that breaks off; {"end"} is the end.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from storage.readers.confinement import Needs
from storage.readers.records import SourceOptions
from storage.readers.sandbox import begin, confine, receive, send
from storage.readers.table_process import AskedFor, batch_rows, frames, load

_PAGE_BUFFER = 2**20  # for each column, so that a row group is never in memory as a whole


def main() -> None:
    begin(Needs())
    load()
    confine()
    asked = receive(sys.stdin.buffer)
    assert asked is not None
    head, _ = asked
    serve(AskedFor(head["bytes"]), SourceOptions(**head["options"]), sys.stdout.buffer)


def serve(source: Any, options: SourceOptions, out: BinaryIO) -> None:
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(source, buffer_size=_PAGE_BUFFER, pre_buffer=False)
        columns: list[str] = file.schema_arrow.names
        as_json = _json_columns(file.schema) - {options.text_field, options.id_field}
    except Exception as error:  # whatever the library raises on a file that it cannot read
        send(out, {"error": type(error).__name__})
        return
    send(out, {"columns": columns})
    first = 1
    for group in range(file.num_row_groups):
        last = first + file.metadata.row_group(group).num_rows - 1
        given = first - 1
        try:
            for batch in _batches(file, group):
                for frame in frames(batch, given + 1, options, as_json):
                    send(out, {}, frame)
                given += batch.num_rows
        except Exception:  # as above
            send(out, {"damaged": [given + 1, last]})
        first = last + 1
    send(out, {"end": True})


def _json_columns(schema: Any) -> frozenset[str]:
    leaves = (schema.column(n) for n in range(len(schema)))
    return frozenset(leaf.path for leaf in leaves if leaf.logical_type.type == "JSON")


def _batches(file: Any, group: int) -> Iterator[Any]:
    said = file.metadata.row_group(group)
    n_bytes = sum(said.column(n).total_uncompressed_size for n in range(said.num_columns))
    rows = batch_rows(n_bytes, said.num_rows)
    yield from file.iter_batches(batch_size=rows, row_groups=[group], use_threads=False)


if __name__ == "__main__":
    main()
