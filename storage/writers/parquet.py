"""Parquet, compressed with zstd, by pyarrow (an extra)."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from itertools import chain, islice
from typing import Any, BinaryIO

import numpy as np

from storage.writers.jsonl import dumped

_GROUP_ROWS = 10_000
_COLUMNS = ("id", "task", "text", "tokens_in", "tokens_out", "flags", "meta")  # of a table without rows


def present() -> bool:
    """Whether the library is there."""
    return find_spec("pyarrow") is not None


def write(rows: Iterable[dict[str, Any]], file: BinaryIO) -> int:
    """One table; "meta" is JSON by its type, since every record may have other fields. Returns how many rows."""
    import pyarrow as pa
    from pyarrow import parquet

    given = iter(rows)
    first = list(islice(given, 1))
    schema = pa.schema([(name, _type(name)) for name in (first[0] if first else _COLUMNS)])
    n = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        rest = chain(first, given)
        while group := list(islice(rest, _GROUP_ROWS)):
            columns = [pa.array([_value(row.get(name)) for row in group], _type(name)) for name in schema.names]
            writer.write_table(pa.table(columns, schema=schema))
            n += len(group)
    return n


def _type(name: str) -> Any:
    import pyarrow as pa

    types = {
        "vector": pa.list_(pa.float32()),
        "windows": pa.list_(pa.list_(pa.int64())),
        "tokens_in": pa.int64(),
        "tokens_out": pa.int64(),
        "flags": pa.list_(pa.string()),
        "meta": pa.json_(),
    }
    return types.get("vector" if name.endswith("_vector") else name, pa.string())


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return dumped(value).decode()
    return value.ravel() if isinstance(value, np.ndarray) else value
