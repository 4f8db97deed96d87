"""Arrow files (https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc),
as `datasets` saves them, read by pyarrow (an extra) in a process of its own.

pyarrow trusts the lengths in a file, so it runs in a process of its own, and each batch of rows is validated before
it is used. A file is read once, in order, so that the rows before damage are there.
"""

from __future__ import annotations

from typing import BinaryIO

from storage.readers import table
from storage.readers.errors import SourceUnreadable
from storage.readers.records import Rows, SourceOptions


def rows(stream: BinaryIO, name: str, options: SourceOptions) -> Rows:
    """Yield the file's rows in order, from a stream (`.arrow` of `datasets`) or a file with a footer (Feather).

    Raises SourceUnreadable and FieldUnknown, and BrokenStream if the process or the file ends early.
    """
    program = table.Program(
        "storage.readers.arrow_process", lambda _: SourceUnreadable(f"{name} is damaged, or no Arrow file")
    )
    yield from table.rows(program, stream, name, options)
