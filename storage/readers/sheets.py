"""Sheets of Excel and OpenDocument workbooks, read by calamine (an extra) in a process of its own.

A small workbook can expand to any size, and calamine holds a whole sheet in memory. So the process has a limit of
2 GiB.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any, BinaryIO

from docmill.storage.readers import table
from docmill.storage.readers.documents import why_other_kind
from docmill.storage.readers.errors import FieldUnknown, SourceEmpty, SourceError, SourceUnreadable, SourceUnsupported
from docmill.storage.readers.records import Rows, SourceOptions, listed
from docmill.storage.readers.registry import WORKBOOK

_END_BYTES = 64 * 1024


def rows(stream: BinaryIO, name: str, options: SourceOptions) -> Rows:
    """Yield the rows of one sheet, each with the number that the sheet gives it.

    The sheet is the one that the options name, else the only visible one with rows. So is the row of the header, else
    it is the first row that is not empty.

    Raises SourceUnsupported, SourceUnreadable, SourceEmpty and FieldUnknown, and BrokenStream if the process ends
    early.
    """
    if not stream.seekable():
        raise SourceUnsupported(f"{name}: a workbook is compressed already; take off the compression around it")
    size = stream.seek(0, os.SEEK_END)
    asked = {"bytes": size, "sheet": options.sheet, "header_row": options.header_row}
    program = table.Program(
        "docmill.storage.readers.sheet_process",
        partial(_refused, name, options.header_row, stream),
        asked,
        advice="a large sheet can be read once it is saved as CSV",
    )
    try:
        yield from table.rows(program, stream, name, options)
    except FieldUnknown as error:
        if options.header_row is not None:
            raise
        raise FieldUnknown(f"{error}, or the row of the header with --header-row") from error


def _refused(name: str, header_row: int | None, stream: BinaryIO, answer: dict[str, Any]) -> SourceError:
    """Return the error for an answer that has no columns."""
    problem, sheets = answer["error"], listed(answer.get("sheets", ()))
    if problem == "password":
        return SourceUnreadable(f"{name} is protected by a password: save a copy without it")
    if problem == "several":
        return SourceUnsupported(f"{name} has several sheets with rows: name one with --sheet; there are {sheets}")
    if problem == "unknown":
        return SourceUnsupported(f"{name} has no such sheet: name one with --sheet; there are {sheets}")
    if problem == "beyond":
        rows = f"{answer['rows']:,} row{'' if answer['rows'] == 1 else 's'}"
        return SourceUnsupported(
            f"{name}: --header-row {header_row} is beyond the sheet {sheets}, which has {rows}: give a smaller number"
        )
    if problem == "blank":
        return SourceUnsupported(
            f"{name}: row {header_row} of the sheet {sheets} is empty: give --header-row the row with the names of "
            "the columns"
        )
    if problem == "empty":
        return SourceEmpty(f"{name} has no rows in its sheets ({sheets})")
    return SourceUnreadable(_why_no_workbook(name, stream))


def _why_no_workbook(name: str, stream: BinaryIO) -> str:
    """Return why a file is no workbook, by its first and last bytes; a zip file has the names of its members last."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    raw = stream.read(_END_BYTES)
    stream.seek(max(0, size - _END_BYTES))
    raw += stream.read(_END_BYTES)
    if (reason := why_other_kind(raw, WORKBOOK)) is not None:
        return f"{name}: {reason}"
    return f"{name} is damaged, or no workbook of Excel or OpenDocument"
