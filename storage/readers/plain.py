"""Plain text with a record on each line, UTF-8."""

from __future__ import annotations

from typing import BinaryIO

from docmill.storage.readers.records import Rejection, Row, Rows, SourceOptions, keys_of, too_long
from docmill.storage.readers.streams import text_lines


def rows(stream: BinaryIO, name: str, options: SourceOptions) -> Rows:
    """Yield the stream's lines as texts. Blank lines are skipped, and count in line numbers only."""
    number = 0
    for line_number, (line, flags) in enumerate(text_lines(stream, options.max_record_bytes), 1):
        where = f"{name}:{line_number}"
        if line is None:
            number += 1
            yield Rejection(where, too_long(options.max_record_bytes), keys=keys_of({}, name, number, options))
            continue
        if text := line.strip():
            number += 1
            yield Row({options.text_field: text}, number, where, flags, clean=False)
