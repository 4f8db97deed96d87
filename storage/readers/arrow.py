"""Arrow's files (https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc),
as `datasets` saves them, by pyarrow (an extra) in a process of its own.

Its library trusts what the file says of its own lengths. So it runs where it ends nothing else, and each batch of
rows is looked through before it is used. A file is read once and in its order, so that what comes before a damage is
there.
"""

from __future__ import annotations

from typing import BinaryIO

from storage.readers import table
from storage.readers.errors import SourceUnreadable
from storage.readers.records import Rows, SourceOptions


def rows(stream: BinaryIO, name: str, options: SourceOptions) -> Rows:
    """The file's rows in its order, be it a stream (`.arrow` of `datasets`) or a file with a footer (Feather).

    Raises SourceUnreadable and FieldUnknown, and BrokenStream where the process or the file ends
    early.
    """
    program = table.Program(
        "storage.readers.arrow_process", lambda _: SourceUnreadable(f"{name} is damaged, or no Arrow file")
    )
    yield from table.rows(program, stream, name, options)
