"""Parquet, compressed with zstd, by pyarrow (an extra)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import BinaryIO

from storage.outputs.columns import Column
from storage.writers.arrow import array
from storage.writers.base import Row, Writer

_GROUP_ROWS = 10_000


def write(rows: Iterable[Row], columns: Sequence[Column], file: BinaryIO) -> int:
    """Write one table; a column of JSON has that as its type, since each value may have other fields."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([(column.name, column.form.arrow()) for column in columns])
    rest, n = iter(rows), 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while group := list(islice(rest, _GROUP_ROWS)):
            arrays = [array(column.form, [column.value(row) for row in group]) for column in columns]
            writer.write_table(pa.table(arrays, schema=schema))
            n += len(group)
    return n


WRITER = Writer("parquet", ".parquet", write, title="Parquet", needs="pyarrow", extra="parquet")
