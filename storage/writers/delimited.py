"""CSV for spreadsheets: a header line, other values than text as JSON, and no cell that a spreadsheet would compute.

Excel takes a CSV file for one in the machine's old encoding unless it begins with a byte order mark, which other
programs take for a part of the first column's name. So the mark is there only where it is asked for.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import BinaryIO

from docmill.storage.outputs.columns import Column
from docmill.storage.writers.base import Row, Writer
from docmill.storage.writers.jsonl import dumped

# What spreadsheets take for a formula, also after white space, quotes and marks that nobody sees, which some of them
# take away. An apostrophe counts too: what `escape_formula` put before a text can be told from what was there.
_FORMULA = re.compile(
    r"""[\s\x00-\x1f"'\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]*[=+@＝＋－＠﹦﹢﹣﹫-]|'*[\t\r\n]"""
)


def escape_formula(text: str) -> str:
    """Return a text that no spreadsheet computes: an apostrophe before a formula makes it text."""
    return f"'{text}" if _FORMULA.match(text) else text


def unescape_formula(cell: str) -> str:
    """Return the text that `escape_formula` made this cell of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell


def write_for_excel(rows: Iterable[Row], columns: Sequence[Column], file: BinaryIO) -> int:
    """Write what `write` does, with a byte order mark before it."""
    file.write(codecs.BOM_UTF8)
    return write(rows, columns, file)


def write(rows: Iterable[Row], columns: Sequence[Column], file: BinaryIO) -> int:
    """Write these columns as RFC 4180 says, in UTF-8. Without rows there is no header either."""
    # Not closed, since the file is not ours to close.
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    try:
        writer = csv.writer(text)
        n = 0
        for row in rows:
            if not n:
                writer.writerow([_cell(column.name) for column in columns])
            writer.writerow([_cell(column.value(row)) for column in columns])
            n += 1
        return n
    finally:
        text.detach()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, int | float):
        return dumped(value).decode()
    return escape_formula(value if isinstance(value, str) else dumped(value).decode())


CSV = Writer("csv", ".csv", write, title="CSV", lines=True)
CSV_FOR_EXCEL = Writer(
    "csv-excel",
    ".csv",
    write_for_excel,
    title="CSV for Excel",
    note="is CSV with the byte order mark that Excel needs",
    lines=True,
)
