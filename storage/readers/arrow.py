"""Arrow files (https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc),
as `datasets` saves them, and Parquet, read by pyarrow (an extra) in a process of its own.

pyarrow trusts the lengths in a file and may crash on it. A small Parquet file can expand to any size: a page of
zeros, or one text that is repeated a billion times.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from docmill.storage.readers import table
from docmill.storage.readers.errors import SourceUnreadable, SourceUnsupported
from docmill.storage.readers.records import Rows, SourceOptions


def rows(stream: BinaryIO, name: str, options: SourceOptions) -> Rows:
    """Yield the file's rows in order, from a stream (`.arrow` of `datasets`) or a file with a footer (Feather).

    The file is read once, so that the rows before damage are there. Raises SourceUnreadable and FieldUnknown, and
    BrokenStream if the process or the file ends early.
    """
    return table.rows(_program(f"{name} is damaged, or no Arrow file", None), stream, name, options)


def parquet_rows(stream: BinaryIO, name: str, options: SourceOptions) -> Rows:
    """Yield the file's rows in order. Damage loses the rest of its row group.

    Raises SourceUnsupported, SourceUnreadable and FieldUnknown, and BrokenStream if the process ends early.
    """
    if not stream.seekable():
        raise SourceUnsupported(f"{name}: Parquet is read from its end; take off a compression around it")
    size = stream.seek(0, os.SEEK_END)
    return table.rows(_program(f"{name} is damaged, or no Parquet file", size), stream, name, options)


def _program(problem: str, size: int | None) -> table.Program:
    return table.Program(
        "docmill.storage.readers.arrow_process", lambda _: SourceUnreadable(problem), {"bytes": size}
    )
