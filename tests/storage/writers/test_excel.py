"""Workbooks of results: texts stay texts, and a remark says what is left out."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from python_calamine import CalamineWorkbook

from docmill.storage.outputs.columns import Column, Form
from docmill.storage.readers import Record, SourceOptions, open_source
from docmill.storage.writers import Target, excel
from docmill.storage.writers.formats import FormatUnfit, RowCount
from tests.storage.columns import table_of
from tests.storage.writers.test_writers import TEXTS

TABLE = table_of("id", "text", "tokens_in", "flags", "vector")


def write(path: Path, rows: list[dict[str, Any]]) -> RowCount:
    return Target.of(path).write(rows, TABLE)


def cells(path: Path) -> list[list[Any]]:
    """Return the rows of all sheets."""
    workbook = CalamineWorkbook.from_path(path)
    return [row for name in workbook.sheet_names for row in workbook.get_sheet_by_name(name).to_python()]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8, deadline=None)
@given(
    texts=st.lists(TEXTS.filter(lambda text: not {"\ufffe", "\uffff"} & {*text}), max_size=20)
)  # XML has no such characters
def test_any_text_is_read_back_as_a_text(texts: list[str], tmp_path: Path) -> None:
    write(tmp_path / "out.xlsx", [{"id": "a", "text": text} for text in texts])
    assert [row[1] for row in cells(tmp_path / "out.xlsx")[1:]] == texts


def test_no_text_becomes_a_formula_a_link_or_a_number(tmp_path: Path) -> None:
    texts = ["=cmd|' /C calc'!A0", "+1", "@SUM(1)", "https://example.org", "007", "1e3", "TRUE", "_x0041_", "  "]
    rows = [{"id": str(n), "text": text, "tokens_in": n} for n, text in enumerate(texts)]
    assert write(tmp_path / "out.xlsx", rows) == len(texts)
    assert [row[1] for row in cells(tmp_path / "out.xlsx")[1:]] == texts
    read = open_source(str(tmp_path / "out.xlsx"), SourceOptions()).records()
    assert [(item.key, item.text, item.meta["tokens_in"]) for item in read if isinstance(item, Record)] == [
        (str(n), text, n) for n, text in enumerate(texts)
    ]


def test_a_value_too_large_for_a_cell_is_cut_with_a_note_and_a_remark(tmp_path: Path) -> None:
    longest, whales = "x" * excel.MOST_CHARS, "🐳" * 20_000  # a whale takes two of Excel's characters
    vector = np.zeros(3, np.float32)
    rows = [{"id": "a", "text": longest}, {"id": "b", "text": f"{longest}x"}, {"id": "c", "text": whales}]
    n = write(tmp_path / "out.xlsx", [*rows, {"id": "d", "vector": vector, "tokens_in": 2**60}])
    assert (n, n.remark.partition(".")[0]) == (
        4,
        "2 cells were cut, since a cell has 32,767 characters; each ends with a note",
    )
    assert "A vector's cell shows its length" in n.remark
    _, whole, cut, halved, last = cells(tmp_path / "out.xlsx")
    assert whole[1] == longest
    assert cut[1].endswith("x […] (cut: the text has 32,768 characters)")
    assert len(cut[1]) == excel.MOST_CHARS
    assert halved[1].endswith("🐳 […] (cut: the text has 20,000 characters)")
    assert last[2:] == [str(2**60), "", "3 numbers"]
    assert write(tmp_path / "out.xlsx", rows[:1]).remark == ""


def test_more_results_than_a_sheet_holds_are_on_more_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excel, "MOST_ROWS", 3)
    n = write(tmp_path / "out.xlsx", [{"id": str(n)} for n in range(5)])
    assert (n, n.remark) == (5, "They are on 3 sheets, since a sheet has 3 rows.")
    assert [row[0] for row in cells(tmp_path / "out.xlsx")] == ["id", "0", "1", "id", "2", "3", "id", "4"]
    monkeypatch.setattr(excel, "MOST_COLUMNS", 4)
    with pytest.raises(FormatUnfit, match=r"out\.xlsx: 5 columns are more than the 4 of a sheet"):
        write(tmp_path / "out.xlsx", [])


def test_the_same_results_are_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "out.xlsx"
    assert write(path, []) == 0
    assert cells(path) == [[column.name for column in TABLE]]
    write(path, [{"id": "a"}])
    before = path.read_bytes()
    write(path, [{"id": "a"}])
    assert path.read_bytes() == before
    with zipfile.ZipFile(path) as workbook:
        assert b">1980-01-01T00:00:00Z<" in workbook.read("docProps/core.xml")


@pytest.mark.parametrize("when", ["rows are written", "the workbook is packed"])
def test_an_interrupted_workbook_leaves_no_file(when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    out, temporary = tmp_path / "out", tmp_path / "temporary"
    out.mkdir()
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    if when == "the workbook is packed":
        monkeypatch.setattr(zipfile.ZipFile, "write", interrupt)
    columns = [Column("id", Form.TEXT, interrupt)] if when == "rows are written" else TABLE
    with pytest.raises(KeyboardInterrupt):
        Target.of(out / "out.xlsx").write([{"id": "a"}], columns)
    assert [*out.iterdir(), *temporary.iterdir()] == []
