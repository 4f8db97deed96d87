"""Parquet, compressed with zstd, by pyarrow (an extra)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import BinaryIO

from docmill.storage.outputs.columns import Column
from docmill.storage.writers.arrow import array, type_of
from docmill.storage.writers.base import Row, Writer

_GROUP_ROWS = 10_000


def write(rows: Iterable[Row], columns: Sequence[Column], file: BinaryIO) -> int:
    """Write one table; a column of JSON has that as its type, since each value may have other fields.

    The first rows decide if vectors are lists of fixed size.
    """
    import pyarrow as pa
    from pyarrow import parquet

    rest, n = iter(rows), 0
    group = list(islice(rest, _GROUP_ROWS))
    schema = pa.schema([(column.name, type_of(column, group)) for column in columns])
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while group:
            arrays = [
                array(column.form, [column.value(row) for row in group], schema.field(number).type)
                for number, column in enumerate(columns)
            ]
            writer.write_table(pa.table(arrays, schema=schema))
            n += len(group)
            group = list(islice(rest, _GROUP_ROWS))
    return n


WRITER = Writer("parquet", ".parquet", write, title="Parquet", needs="pyarrow", extra="parquet")
