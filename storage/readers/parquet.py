"""Parquet, read by pyarrow (an extra) in a process of its own.

A small file can expand to any size: a page of zeros, or one text that is repeated a billion times. pyarrow is written
in C++ and may crash on it, so it runs in a process of its own.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from storage.readers import table
from storage.readers.errors import SourceUnreadable, SourceUnsupported
from storage.readers.records import Rows, SourceOptions


def rows(stream: BinaryIO, name: str, options: SourceOptions) -> Rows:
    """Yield the file's rows in order. Damage loses the rest of its row group.

    Raises SourceUnsupported, SourceUnreadable and FieldUnknown, and BrokenStream if the process ends early.
    """
    if not stream.seekable():
        raise SourceUnsupported(f"{name}: Parquet is read from its end; take off a compression around it")
    program = table.Program(
        "storage.readers.parquet_process",
        lambda _: SourceUnreadable(f"{name} is damaged, or no Parquet file"),
        {"bytes": stream.seek(0, os.SEEK_END)},
    )
    yield from table.rows(program, stream, name, options)
