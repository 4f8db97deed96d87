"""Parquet, by pyarrow (an extra) in a process of its own.

A file can be small where what it holds is not: a page of zeros, or a text that one number repeats a billion times,
asks for any amount of memory, in a library of C++. So it runs where it ends nothing else.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from storage.readers import table
from storage.readers.errors import SourceUnreadable, SourceUnsupported
from storage.readers.records import Rows, SourceOptions


def rows(stream: BinaryIO, name: str, options: SourceOptions) -> Rows:
    """The file's rows in its order; damage costs the rest of the group of rows that it is in.

    Raises SourceUnsupported, SourceUnreadable and FieldUnknown, and BrokenStream where the process ends early.
    """
    if not stream.seekable():
        raise SourceUnsupported(f"{name}: Parquet is read from its end; take off a compression around it")
    program = table.Program(
        "storage.readers.parquet_process",
        lambda _: SourceUnreadable(f"{name} is damaged, or no Parquet file"),
        {"bytes": stream.seek(0, os.SEEK_END)},
    )
    yield from table.rows(program, stream, name, options)
