"""Sheets of Excel and OpenDocument workbooks, read by calamine (an extra) in a process of its own.

A small workbook can expand to any size, and calamine holds a whole sheet in memory. So the process has a limit of
2 GiB.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from datetime import date, time, timedelta
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import orjson

from docmill.storage.json_values import Json
from docmill.storage.readers import table
from docmill.storage.readers.confinement import Confined, begin
from docmill.storage.readers.documents import COMPOUND, ENCRYPTED, why_other_kind
from docmill.storage.readers.errors import FieldUnknown, SourceError, SourceUnsupported
from docmill.storage.readers.records import Rejection, Rows, SourceOptions, quote_names
from docmill.storage.readers.registry import WORKBOOK
from docmill.storage.readers.table import VALUE_LEFT_OUT, OpenTable, PipedFile, as_row, framed, row_line, serve

if TYPE_CHECKING:
    from python_calamine import CalamineSheet, CalamineWorkbook

_END_BYTES = 64 * 1024
# As python-calamine gives it; "" is an empty cell.
Cell: TypeAlias = int | float | str | bool | time | date | timedelta
NumberedRows: TypeAlias = Iterator[tuple[int, list[Cell]]]
_EXACT = 2.0**53  # Excel has no whole numbers; below this a float is one exactly


def rows(stream: BinaryIO, name: str, options: SourceOptions) -> Rows:
    """Yield the rows of one sheet, each with the number that the sheet gives it.

    The options name the sheet and the row of its header. By default these are the only visible sheet with rows, and
    its first row that is not empty.

    Raises SourceError, and BrokenStream if the process ends early.
    """
    if not stream.seekable():
        raise SourceUnsupported(f"{name}: a workbook is compressed already; take off the compression around it")
    request = {"name": name, "bytes": stream.seek(0, os.SEEK_END)}
    advice = "; a large sheet can be read once it is saved as CSV"
    try:
        yield from table.rows(Confined(__name__), request, stream, name, options, advice)
    except FieldUnknown as error:
        if options.header_row is not None:
            raise
        raise FieldUnknown(f"{error}, or the row of the header with --header-row") from error


def main() -> None:
    """Read one sheet."""
    head = begin(partial(import_module, "python_calamine"))  # while files may still be opened
    options = SourceOptions(**head["options"])
    serve(partial(_open, head["name"], PipedFile(head["bytes"]), options), sys.stdout.buffer)


def _open(name: str, file: PipedFile, options: SourceOptions) -> OpenTable:
    """Return the wanted sheet of a workbook, or the only visible one with rows. Rows above the header are left out.

    Raises SourceError.
    """
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError, SheetTypeEnum, SheetVisibleEnum

    wanted, header_row = options.sheet, options.header_row
    try:
        workbook = CalamineWorkbook.from_filelike(file)
        sheets = {entry.name: entry for entry in workbook.sheets_metadata if entry.typ == SheetTypeEnum.WorkSheet}
        if wanted is not None and wanted not in sheets:
            there = quote_names(sheets)
            raise SourceUnsupported(f"{name} has no such sheet: name one with --sheet; there are {there}")
        visible = [sheet for sheet, entry in sheets.items() if entry.visible == SheetVisibleEnum.Visible]
        sheet = _with_rows(name, workbook, visible if wanted is None else [wanted])
    except (CalamineError, ValueError, OSError) as error:
        if isinstance(error, PasswordError) or _is_encrypted(file):
            raise SourceError(f"{name} is protected by a password: save a copy without it") from error
        raise SourceError(_why_no_workbook(name, file)) from error
    rows = enumerate(sheet.iter_rows(), 1)
    number, shown = 0, quote_names([sheet.name])
    for number, values in rows:
        if any(value != "" for value in values) if header_row is None else number == header_row:
            columns = [_name(value) for value in values]
            if header_row is not None and not any(columns):
                raise SourceUnsupported(
                    f"{name}: row {header_row} of the sheet {shown} is empty: give --header-row the row with the "
                    "names of the columns"
                )
            lines = _lines(columns, rows, options)
            return [column for column in columns if column], (({}, frame) for frame in framed(lines))
    if header_row is None:
        raise _without_rows(name, [sheet.name])
    n_rows = f"{number:,} row{'' if number == 1 else 's'}"
    raise SourceUnsupported(
        f"{name}: --header-row {header_row} is beyond the sheet {shown}, which has {n_rows}: give a smaller number"
    )


def _without_rows(name: str, sheets: Sequence[str]) -> SourceUnsupported:
    return SourceUnsupported(f"{name} has no rows in its sheets ({quote_names(sheets)})")


def _why_no_workbook(name: str, file: PipedFile) -> str:
    """Return why a file is no workbook, by its first and last bytes; a zip file has the names of its members last."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    raw = file.read(_END_BYTES)
    file.seek(max(0, size - _END_BYTES))
    raw += file.read(_END_BYTES)
    if (reason := why_other_kind(raw, WORKBOOK)) is not None:
        return f"{name}: {reason}"
    return f"{name} is damaged, or no workbook of Excel or OpenDocument"


def _is_encrypted(file: PipedFile) -> bool:
    """Return True for a workbook with a password: a compound file (MS-CFB) around it ([MS-OFFCRYPTO])."""
    file.seek(0)
    raw = file.read()
    return raw.startswith(COMPOUND) and ENCRYPTED in raw


def _with_rows(name: str, workbook: CalamineWorkbook, names: Sequence[str]) -> CalamineSheet:
    """Return the only one of these sheets of a workbook that has rows. Raises SourceUnsupported."""
    with_rows = None
    for sheet in map(workbook.get_sheet_by_name, names):
        if sheet.start is None:
            continue
        if with_rows is not None:
            there = quote_names(names)
            raise SourceUnsupported(f"{name} has several sheets with rows: name one with --sheet; there are {there}")
        with_rows = sheet
    if with_rows is None:
        raise _without_rows(name, names)
    return with_rows


def _lines(columns: Sequence[str], rows: NumberedRows, options: SourceOptions) -> Iterator[bytes]:
    named = [(place, name) for place, name in enumerate(columns) if name]
    unnamed = [place for place, name in enumerate(columns) if not name]
    for number, values in rows:
        if all(value == "" for value in values):
            continue
        fields = {name: _value(values[place]) for place, name in named}
        row = as_row(fields, "", options)
        assert not isinstance(row, Rejection)  # no cell holds what JSON has no form for
        text = row.fields.get(options.text_field)
        if options.text_field in row.fields and not isinstance(text, str):
            row.fields[options.text_field] = _text(text)
        flags = (VALUE_LEFT_OUT,) if any(values[place] != "" for place in unnamed) else ()
        yield row_line(number, row.fields, flags, options.max_record_bytes)


def _name(value: Cell) -> str:
    return _text(_value(value)).strip()


def _value(value: Cell) -> Cell | None:
    """Return a cell's value: None for an empty cell, and whole numbers as such."""
    if value == "":
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return value


def _text(value: Cell | Json) -> str:
    """Return a cell that should be a text as one, as a spreadsheet shows it."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).upper()
    return value.isoformat() if hasattr(value, "isoformat") else orjson.dumps(value, default=str).decode()


if __name__ == "__main__":
    main()
