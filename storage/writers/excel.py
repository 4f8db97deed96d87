"""Workbooks of Excel, by XlsxWriter (an extra), row by row through temporary files.

Texts are written as texts: no cell becomes a formula, a link or a number for its looks. Excel's limits:
https://support.microsoft.com/office/excel-specifications-and-limits-1672b34d-7043-467e-8e27-269d656771c3
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from math import isfinite
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO

from docmill.storage.extras import EXCEL
from docmill.storage.outputs.columns import Column, Form
from docmill.storage.writers.formats import FormatUnfit, Row, RowCount, Writer, to_json

if TYPE_CHECKING:
    from xlsxwriter import Workbook
    from xlsxwriter.worksheet import Worksheet

MOST_ROWS = 1_048_576  # of a sheet, the header included
MOST_COLUMNS = 16_384
MOST_CHARS = 32_767  # of a cell, in UTF-16
_WIDTHS = {Form.TEXT: 40, Form.INTEGER: 10, Form.NUMBER: 10, Form.BOOLEAN: 10}  # in characters; the others have 20
_EXACT = 2**53  # a larger whole number would lose digits
_CREATED = datetime(1980, 1, 1)  # noqa: DTZ001 - the format has no time zone; the same results are the same bytes


def write(rows: Iterable[Row], columns: Sequence[Column], file: BinaryIO) -> RowCount:
    """Write the results, on further sheets if one has no room for them.

    A text that is longer than a cell can hold is cut, with a note at its end. A vector's cell shows its length. The
    remark says so. Raises FormatUnfit for too many columns, and OSError.
    """
    from xlsxwriter import Workbook
    from xlsxwriter.exceptions import FileCreateError, FileSizeError

    if len(columns) > MOST_COLUMNS:
        raise FormatUnfit(f"{len(columns):,} columns are more than the {MOST_COLUMNS:,} of a sheet; CSV has no limit")
    with TemporaryDirectory() as folder:  # XlsxWriter removes its files only at a good end
        workbook = Workbook(file, {"constant_memory": True, "tmpdir": folder})
        workbook.set_properties({"created": _CREATED})
        table = _Table(workbook, columns)
        try:
            for row in rows:
                table.add(row)
            workbook.close()
        except FileCreateError as error:
            raise OSError(str(error)) from error
        except FileSizeError as error:
            raise FormatUnfit("the workbook has more than 4 GiB; write parts, or .csv.gz") from error
        finally:
            for sheet in workbook.worksheets():
                sheet.row_data_fh.close()
    return RowCount(table.n_rows, table.remark())


class _Table:
    """Sheets of a workbook with the same columns, and counts of values that a cell cannot hold."""

    def __init__(self, workbook: Workbook, columns: Sequence[Column]) -> None:
        self.n_rows = 0
        self._workbook = workbook
        self._bold = workbook.add_format({"bold": True})
        self._columns = columns
        self._n_sheets = self._n_cut = self._n_vectors = 0
        self._sheet = self._next_sheet()

    def add(self, row: Row) -> None:
        at = self.n_rows % (MOST_ROWS - 1) + 1
        if self.n_rows and at == 1:
            self._sheet = self._next_sheet()
        self.n_rows += 1
        for place, column in enumerate(self._columns):
            self._write(at, place, column.form, column.value(row))

    def remark(self) -> str:
        """Return sentences on several sheets, and on values that a cell cannot hold; empty if there are none."""
        said = []
        if self._n_sheets > 1:
            said.append(f"They are on {self._n_sheets} sheets, since a sheet has {MOST_ROWS:,} rows.")
        if self._n_cut:
            said.append(
                f"{self._n_cut:,} cell{' was' if self._n_cut == 1 else 's were'} cut, since a cell has "
                f"{MOST_CHARS:,} characters; each ends with a note. JSON lines, CSV and Parquet have the whole texts."
            )
        if self._n_vectors:
            said.append("A vector's cell shows its length; JSON lines, CSV, .npy and Parquet have the numbers.")
        return " ".join(said)

    def _next_sheet(self) -> Worksheet:
        self._n_sheets += 1
        sheet = self._workbook.add_worksheet("Results" if self._n_sheets == 1 else f"Results {self._n_sheets}")
        sheet.freeze_panes(1, 0)
        for place, column in enumerate(self._columns):
            sheet.set_column(place, place, _WIDTHS.get(column.form, 20))
            sheet.write_string(0, place, column.name, self._bold)
        return sheet

    def _write(self, at: int, place: int, form: Form, value: Any) -> None:
        if value is None:
            return
        if form is Form.VECTOR:
            self._n_vectors += 1
            self._sheet.write_string(at, place, f"{value.size:,} numbers")
        elif isinstance(value, bool):
            self._sheet.write_boolean(at, place, value)
        elif isinstance(value, float) and not isfinite(value):
            self._sheet.write_string(at, place, str(value))  # a cell has finite numbers only
        elif isinstance(value, float) or (isinstance(value, int) and abs(value) <= _EXACT):
            self._sheet.write_number(at, place, value)
        else:
            text = value if isinstance(value, str) else to_json(value).decode()
            if (cut := _cut(text)) is not None:
                self._n_cut += 1
            self._sheet.write_string(at, place, text if cut is None else cut)


def _cut(text: str) -> str | None:
    """Return a text cut to the length of a cell, with a note; None for a text that fits."""
    raw = text.encode("utf-16-le") if len(text) > MOST_CHARS // 2 else b""
    if len(raw) <= 2 * MOST_CHARS:
        return None
    note = f" […] (cut: the text has {len(text):,} characters)"
    return raw[: 2 * (MOST_CHARS - len(note))].decode("utf-16-le", "ignore") + note


WRITER = Writer("xlsx", ".xlsx", write, title="Excel", extra=EXCEL, for_people=True)
