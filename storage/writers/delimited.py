"""CSV for spreadsheets: a header line, what is not text as JSON, and no cell that a spreadsheet would compute.

Excel takes a CSV file for one in the machine's old encoding unless it begins with a byte order mark, which other
programs take for a part of the first column's name. So the mark is there only where it is asked for.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable
from typing import Any, BinaryIO

from storage.writers.jsonl import dumped

# What spreadsheets take for a formula; an apostrophe before it makes it text again. One that was there gets another,
# so that what was put before can be told from what was there.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def write_for_excel(rows: Iterable[dict[str, Any]], file: BinaryIO) -> int:
    """Write what `write` does, with a byte order mark before it."""
    file.write(codecs.BOM_UTF8)
    return write(rows, file)


def write(rows: Iterable[dict[str, Any]], file: BinaryIO) -> int:
    """As RFC 4180 says, in UTF-8. The columns are those of the first row; a later row's others are left out."""
    # Not closed, since the file is not ours to close.
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    try:
        writer = csv.writer(text)
        columns: list[str] = []
        n = 0
        for row in rows:
            if not columns:
                columns = list(row)
                writer.writerow(columns)
            writer.writerow([_cell(row.get(column)) for column in columns])
            n += 1
        return n
    finally:
        text.detach()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    text = value if isinstance(value, str) else dumped(value).decode()
    return f"'{text}" if _FORMULA.match(text) else text
