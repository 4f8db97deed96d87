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
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import orjson

from docmill.storage.json_values import Json
from docmill.storage.readers import table
from docmill.storage.readers.confinement import begin, send
from docmill.storage.readers.documents import COMPOUND, ENCRYPTED, why_other_kind
from docmill.storage.readers.errors import FieldUnknown, SourceError, SourceUnreadable, SourceUnsupported
from docmill.storage.readers.records import Rejection, Rows, SourceOptions, quote_names
from docmill.storage.readers.registry import WORKBOOK
from docmill.storage.readers.table import VALUE_LEFT_OUT, PipedFile, TableRefused, as_row, framed, row_line

if TYPE_CHECKING:
    from python_calamine import CalamineSheet, CalamineWorkbook

_END_BYTES = 64 * 1024
# As python-calamine gives it; "" is an empty cell.
Cell: TypeAlias = int | float | str | bool | time | date | timedelta
NumberedRows: TypeAlias = Iterator[tuple[int, list[Cell]]]
_EXACT = 2.0**53  # Excel has no whole numbers; below this a float is one exactly


def rows(stream: BinaryIO, name: str, options: SourceOptions) -> Rows:
    """Yield the rows of one sheet, each with the number that the sheet gives it.

    The sheet is the one that the options name, else the only visible one with rows. So is the row of the header, else
    it is the first row that is not empty.

    Raises SourceUnsupported, SourceUnreadable and FieldUnknown, and BrokenStream if the process ends
    early.
    """
    if not stream.seekable():
        raise SourceUnsupported(f"{name}: a workbook is compressed already; take off the compression around it")
    size = stream.seek(0, os.SEEK_END)
    request = {"bytes": size, "sheet": options.sheet, "header_row": options.header_row}
    program = table.Program(
        __name__,
        partial(_refused, name, options.header_row, stream),
        request,
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
    problem, sheets = answer["refused"], quote_names(answer.get("sheets", ()))
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
        return SourceUnsupported(f"{name} has no rows in its sheets ({sheets})")
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


def main() -> None:
    """Read one sheet. The answer {"refused"} may have the names of the workbook's "sheets"."""
    head = begin(partial(import_module, "python_calamine"))  # while files may still be opened
    options = SourceOptions(**head["options"], sheet=head["sheet"], header_row=head["header_row"])
    serve(PipedFile(head["bytes"]), options, sys.stdout.buffer)


def serve(source: BinaryIO | PipedFile, options: SourceOptions, out: BinaryIO) -> None:
    """Send the rows of a sheet, or the reason why there are none."""
    try:
        columns, rows = open_sheet(source, options.sheet, options.header_row)
    except TableRefused as refusal:
        send(out, refusal.answer)
        return
    send(out, {"columns": [name for name in columns if name]})
    for frame in framed(_lines(columns, rows, options)):
        send(out, {}, frame)
    send(out, {"end": True})


def open_sheet(
    source: BinaryIO | PipedFile, wanted: str | None, header_row: int | None = None
) -> tuple[list[str], NumberedRows]:
    """Return the columns and the rows of the wanted sheet of a workbook, or of the only visible one with rows.

    A column without a name has an empty one. Rows above the header are left out. Without `header_row` the header is
    the first row that is not empty. Raises TableRefused.
    """
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError, SheetTypeEnum, SheetVisibleEnum

    try:
        workbook = CalamineWorkbook.from_filelike(source)
        sheets = {entry.name: entry for entry in workbook.sheets_metadata if entry.typ == SheetTypeEnum.WorkSheet}
        if wanted is not None and wanted not in sheets:
            raise TableRefused("unknown", sheets=[*sheets])
        visible = [name for name, entry in sheets.items() if entry.visible == SheetVisibleEnum.Visible]
        sheet = _with_rows(workbook, visible if wanted is None else [wanted])
    except PasswordError as error:
        raise TableRefused("password") from error
    except (CalamineError, ValueError, OSError) as error:
        raise TableRefused("password" if _is_encrypted(source) else "damaged") from error
    rows = enumerate(sheet.iter_rows(), 1)
    number = 0
    for number, values in rows:
        if any(value != "" for value in values) if header_row is None else number == header_row:
            columns = [_name(value) for value in values]
            if header_row is not None and not any(columns):
                raise TableRefused("blank", sheets=[sheet.name])
            return columns, rows
    raise TableRefused("empty" if header_row is None else "beyond", sheets=[sheet.name], rows=number)


def _is_encrypted(source: BinaryIO | PipedFile) -> bool:
    """Return True for a workbook with a password: a compound file (MS-CFB) around it ([MS-OFFCRYPTO])."""
    source.seek(0)
    raw = source.read()
    return raw.startswith(COMPOUND) and ENCRYPTED in raw


def _with_rows(workbook: CalamineWorkbook, names: Sequence[str]) -> CalamineSheet:
    """Return the only one of these sheets that has rows. Raises TableRefused."""
    with_rows = None
    for name in names:
        sheet = workbook.get_sheet_by_name(name)
        if sheet.start is None:
            continue
        if with_rows is not None:
            raise TableRefused("several", sheets=names)
        with_rows = sheet
    if with_rows is None:
        raise TableRefused("empty", sheets=names)
    return with_rows


def _lines(columns: Sequence[str], rows: NumberedRows, options: SourceOptions) -> Iterator[bytes]:
    named = [(place, name) for place, name in enumerate(columns) if name]
    unnamed = [place for place, name in enumerate(columns) if not name]
    for number, values in rows:
        if all(value == "" for value in values):
            continue
        fields = {name: _value(values[place]) for place, name in named}
        row = as_row(fields, number, "", options)
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
