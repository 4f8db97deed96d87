"""Sheets of workbooks: values, names and row numbers, and damaged and hostile workbooks."""

from __future__ import annotations

import datetime
import gzip
import re
import zipfile
from pathlib import Path
from typing import Any

import xlsxwriter

from docmill.storage.readers import (
    FieldUnknown,
    Record,
    Rejection,
    SourceError,
    SourceOptions,
    SourceUnsupported,
    open_source,
)
from docmill.storage.readers.records import KeyKind
from tests.storage.readers.reading import refused, zipped

DATA = Path(__file__).parent / "data"
NOON = datetime.datetime.fromisoformat("2026-02-03T12:30")
Sheet = list[list[Any]]


def saved(path: Path, /, *, hidden: str = "", **sheets: Sheet) -> Path:
    """Write a workbook, and return its path. A tuple is a formula and its value."""
    with xlsxwriter.Workbook(path) as workbook:
        formats = {
            datetime.datetime: workbook.add_format({"num_format": "yyyy-mm-dd hh:mm"}),
            datetime.date: workbook.add_format({"num_format": "yyyy-mm-dd"}),
            datetime.timedelta: workbook.add_format({"num_format": "[h]:mm"}),
        }
        for name, rows in sheets.items():
            sheet = workbook.add_worksheet(name)
            if name == hidden:
                sheet.hide()
            for n, values in enumerate(rows):
                for m, value in enumerate(values):
                    if isinstance(value, tuple):
                        sheet.write_formula(n, m, value[0], None, value[1])
                    elif type(value) in formats:
                        sheet.write_datetime(n, m, value, formats[type(value)])
                    elif value is not None:
                        sheet.write(n, m, value)
    return path


def read(path: Path, **options: Any) -> list[Record | Rejection]:
    return list(open_source(str(path), SourceOptions(**options)).records())


def test_a_row_is_a_document_and_its_cells_keep_their_types(tmp_path: Path) -> None:
    head = [None, "id", " text ", "n", "share", "sum", "ok", "day", "at", "took", "error"]
    values = ["unnamed", 4711, "One", 3, 0.5, ("=1+1", 2), True, NOON.date(), NOON, datetime.timedelta(hours=30)]
    rows: Sheet = [
        [],
        head,
        [*values, ("=1/0", "#DIV/0!")],
        [],
        [None, "b", 2026],
        [None, "c"],
        [None, None, "No id"],
    ]
    path = saved(tmp_path / "book.xlsx", Data=rows, Notes=[])
    meta = {"n": 3, "share": 0.5, "sum": 2, "ok": True, "day": "2026-02-03", "at": "2026-02-03T12:30:00"}
    empty = dict.fromkeys([*meta, "took", "error"])
    first, *others = read(path)
    flags = ("value_left_out",)
    assert first == Record("4711", "One", meta | {"took": 108_000.0, "error": None}, flags, "book.xlsx:3")
    assert others == [
        Record("b", "2026", empty, (), "book.xlsx:5"),
        Record("c", "", empty, (), "book.xlsx:6"),
        Record("book.xlsx:7", "No id", empty, (), "book.xlsx:7"),
    ]
    assert isinstance(first, Record)
    assert first.key_kind is KeyKind.NUMBER
    assert len(read(path, limit=2)) == 2


def test_the_only_visible_sheet_with_rows_or_the_named_sheet_is_read(tmp_path: Path) -> None:
    rows = [["text"], ["A text."]]
    hidden = saved(tmp_path / "hidden.xlsx", hidden="Lists", Data=rows, Empty=[], Lists=rows)
    assert read(hidden) == [Record("hidden.xlsx:2", "A text.", {}, (), "hidden.xlsx:2")]
    several = saved(tmp_path / "several.xlsx", One=rows, Two=rows)
    message = 'several sheets with rows: name one with --sheet; there are "One", "Two"'
    assert message in refused(SourceUnsupported, several)
    place = "several.xlsx[Two]:2"
    source = open_source(str(several), SourceOptions(sheet="Two"))
    assert list(source.records()) == [Record(place, "A text.", {}, (), place)]
    assert source.name == f"{several}[Two]"
    message = 'no such sheet: name one with --sheet; there are "One", "Two"'
    assert message in refused(SourceUnsupported, several, SourceOptions(sheet="Three"))
    (tmp_path / "a.csv").write_text("id,text\n1,one\n")
    for other, name in ((str(tmp_path / "a.csv"), "a.csv"), ("-", "standard input")):
        message = f"{name} has no sheets: leave out --sheet"
        assert message in refused(SourceUnsupported, other, SourceOptions(sheet="Two"))
    items = read(tmp_path, sheet="Two")
    assert [item.where for item in items] == ["a.csv:2", place]


TITLED: Sheet = [["Report of 2026"], [], ["id", "text"], [1, "x"], [], [2, "y"]]


def test_the_row_of_the_header_can_be_named_and_rows_above_it_are_left_out(tmp_path: Path) -> None:
    path = saved(tmp_path / "book.xlsx", Data=TITLED, More=[["text"], ["z"]])
    options = {"sheet": "Data", "header_row": 3}
    assert read(path, **options) == [
        Record("1", "x", {}, (), "book.xlsx[Data]:4"),
        Record("2", "y", {}, (), "book.xlsx[Data]:6"),
    ]
    message = refused(FieldUnknown, path, SourceOptions(sheet="Data"))
    assert re.search('it has "Report of 2026": .* or the row of the header with --header-row', message)
    message = refused(FieldUnknown, path, SourceOptions(sheet="Data", header_row=4))
    assert message.endswith('it has "1", "x": name one with --text-field')
    for row, reason in (
        (2, 'row 2 of the sheet "Data" is empty: give --header-row the row with'),
        (7, '--header-row 7 is beyond the sheet "Data", which has 6 rows: give'),
    ):
        assert reason in refused(SourceUnsupported, path, SourceOptions(sheet="Data", header_row=row))
    (tmp_path / "a.csv").write_text("id,text\n1,one\n")
    message = refused(SourceUnsupported, tmp_path / "a.csv", SourceOptions(header_row=2))
    assert "has no sheets: leave out --header-row" in message


def test_the_header_of_an_opendocument_sheet_may_be_further_down(tmp_path: Path) -> None:
    names = {item: f"urn:oasis:names:tc:opendocument:xmlns:{item}:1.0" for item in ("office", "table", "text")}
    cells = [["Report"], [], ["id", "text"], ["a", "One."]]
    written = "".join(
        "<table:table-row>"
        + "".join(
            f'<table:table-cell office:value-type="string"><text:p>{cell}</text:p></table:table-cell>' for cell in row
        )
        + "</table:table-row>"
        for row in cells
    )
    content = (
        f"<office:document-content {' '.join(f'xmlns:{name}={urn!r}' for name, urn in names.items())}><office:body>"
        f"<office:spreadsheet><table:table table:name='Data'>{written}</table:table></office:spreadsheet>"
        "</office:body></office:document-content>"
    )
    with zipfile.ZipFile(tmp_path / "book.ods", "w") as file:
        file.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        file.writestr("META-INF/manifest.xml", "<manifest/>")
        file.writestr("content.xml", content)
    assert read(tmp_path / "book.ods", header_row=3) == [Record("a", "One.", {}, (), "book.ods:4")]


def test_workbooks_of_other_programs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "table.xls"
    path.write_bytes(gzip.decompress((DATA / "table.xls.gz").read_bytes()))
    meta = {"n": 3.5, "when": "2024-02-29"}
    assert read(path)[0] == Record("1", "Hello Größe", meta, (), "table.xls:2")


def test_a_workbook_without_the_needed_columns_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "book.xlsx", Data=[["id", "body", "body"], [1, "x", "y"]])
    assert 'more than one column is named "body"' in refused(FieldUnknown, path)
    saved(path, Data=[], More=[])
    assert 'no rows in its sheets ("Data", "More")' in refused(SourceUnsupported, path)


def test_a_file_that_is_not_a_workbook_is_refused_in_a_sentence(tmp_path: Path) -> None:
    good = saved(tmp_path / "good.xlsx", Data=[["text"], ["x"]]).read_bytes()
    sealed = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 504 + "EncryptedPackage".encode("utf-16-le")
    for raw, message in (
        *((raw, "bad.xlsx is damaged, or no workbook") for raw in (b"", b"PK\3\4", good[:-200], b"id,text\n1,x\n")),
        (zipped({"word/document.xml": "x"}), "under another name: end its name in .docx"),
        (b"<!DOCTYPE html><p>", "under another name: end its name in .html"),
        (b"%PDF-1.7\n", "under another name: end its name in .pdf"),
        (sealed, "bad.xlsx is protected by a password: save a copy"),
    ):
        (tmp_path / "bad.xlsx").write_bytes(raw)
        assert message in refused(SourceError, tmp_path / "bad.xlsx")
    (tmp_path / "good.xlsx.gz").write_bytes(gzip.compress(good))
    assert "take off the compression" in refused(SourceUnsupported, tmp_path / "good.xlsx.gz")


def test_a_small_file_that_becomes_a_huge_sheet_is_refused_within_the_limits(tmp_path: Path) -> None:
    good = saved(tmp_path / "good.xlsx", Data=[["text"], ["x"]])
    bomb = tmp_path / "bomb.xlsx"
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            raw = old.read(name)
            if name.endswith("sheet1.xml"):  # two cells in the corners of the largest sheet
                far = b'<row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>'
                assert b"</sheetData>" in raw
                raw = raw.replace(b"</sheetData>", far)
            new.writestr(name, raw)
    assert re.search("took more memory than a document may.*saved as CSV", refused(SourceError, bomb))
