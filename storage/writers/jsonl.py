"""JSON lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import orjson

from docmill.storage.outputs.columns import Column
from docmill.storage.writers.base import Row, Writer


def lines(rows: Iterable[Row]) -> Iterator[bytes]:
    """Rows as JSON lines; float32 vectors with as many digits as bring the same float32 back."""
    for row in rows:
        yield dumped(row) + b"\n"


def dumped(value: object) -> bytes:
    """A value as JSON; vectors in it as lists."""
    import numpy as np

    if isinstance(value, dict):
        value = {
            key: np.ascontiguousarray(item) if isinstance(item, np.ndarray) else item for key, item in value.items()
        }
    elif isinstance(value, np.ndarray):
        value = np.ascontiguousarray(value)
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def write(rows: Iterable[Row], _columns: Sequence[Column], file: BinaryIO) -> int:
    n = 0
    for line in lines(rows):
        file.write(line)
        n += 1
    return n


WRITER = Writer("jsonl", ".jsonl", write, title="JSON lines", lines=True)
