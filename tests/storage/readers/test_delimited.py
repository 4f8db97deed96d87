"""CSV and TSV files."""

from __future__ import annotations

from pathlib import Path

import pytest

from docmill.storage.readers import FieldUnknown, Record, Rejection, SourceOptions, SourceUnreadable, open_source
from docmill.storage.readers.table import VALUE_LEFT_OUT
from tests.storage.readers.reading import OPTIONS


def read(folder: Path, raw: bytes, options: SourceOptions = OPTIONS, name: str = "c.csv") -> list[Record | Rejection]:
    (folder / name).write_bytes(raw)
    return list(open_source(str(folder / name), options).records())


def test_quotes_hold_commas_quotes_and_line_ends_and_line_numbers_stay_right(tmp_path: Path) -> None:
    raw = b'id,text\r\na,"one, ""two""\r\nthree\nfour"\r\n\r\nb,last\r\n'
    assert read(tmp_path, raw) == [
        Record("a", 'one, "two"\r\nthree\nfour', {}, (), "c.csv:2"),
        Record("b", "last", {}, (), "c.csv:6"),
    ]


def test_other_separators_are_text_where_the_header_has_the_fields(tmp_path: Path) -> None:
    assert read(tmp_path, b"text,n\na;b\tc,1\n") == [Record("c.csv:1", "a;b\tc", {"n": "1"}, (), "c.csv:2")]
    assert read(tmp_path, b"text\tn\na,b\t1\n", name="c.tsv") == [Record("c.tsv:1", "a,b", {"n": "1"}, (), "c.tsv:2")]
    assert read(tmp_path, b"text,a;b;c\nx,y\n") == [Record("c.csv:1", "x", {"a;b;c": "y"}, (), "c.csv:2")]


@pytest.mark.parametrize(("name", "delimiter"), [("c.csv", ";"), ("c.csv", "\t"), ("c.csv", "|"), ("c.tsv", ",")])
def test_columns_may_be_separated_by_something_else(tmp_path: Path, name: str, delimiter: str) -> None:
    raw = '\ufeff\n"id"|text|n\na|"one | ""two""\nthree"|1.5\nb|x\n'.replace("|", delimiter)
    assert read(tmp_path, raw.encode(), name=name) == [
        Record("a", f'one {delimiter} "two"\nthree', {"n": "1.5"}, (), f"{name}:3"),
        Rejection(f"{name}:5", "2 fields where the header has 3"),
    ]


def test_columns_without_a_name_are_left_out(tmp_path: Path) -> None:
    assert read(tmp_path, b"text,,n,\na,,1,\nb,x,2,\n") == [
        Record("c.csv:1", "a", {"n": "1"}, (), "c.csv:2"),
        Record("c.csv:2", "b", {"n": "2"}, (VALUE_LEFT_OUT,), "c.csv:3"),
    ]


def test_nul_in_a_name_of_the_header_is_replaced(tmp_path: Path) -> None:
    expected = Record("1", "hello", {"au\ufffdthor": "x"}, (), "c.csv:2")
    assert read(tmp_path, b"id,text,au\0thor\n1,hello,x\n") == [expected]


def test_a_ragged_row_is_rejected_and_the_next_one_is_read(tmp_path: Path) -> None:
    items = read(tmp_path, b"id,text\na,x,y\nb\nc,z\n")
    assert items[:2] == [
        Rejection("c.csv:2", "3 fields where the header has 2"),
        Rejection("c.csv:3", "1 fields where the header has 2"),
    ]
    assert isinstance(items[2], Record)


def test_text_after_a_closing_quote_is_rejected_and_the_next_row_is_read(tmp_path: Path) -> None:
    items = read(tmp_path, b'id,text\na,"x"y\nb,z\n')
    assert items[0] == Rejection("c.csv:2", "not CSV: text after a closing quote")
    assert isinstance(items[1], Record)


def test_a_stray_quote_that_takes_lines_with_it_is_rejected_with_the_first_and_the_last(tmp_path: Path) -> None:
    items = read(tmp_path, b'\nid,text\na,"x\nb,y\nc,"z"\nd,w\n')
    reason = "not CSV: text after a closing quote in line 5; is a quote left open?"
    assert items == [Rejection("c.csv:3", reason), Record("d", "w", {}, (), "c.csv:6")]


def test_a_quote_that_never_closes_is_fatal_and_names_the_line_where_it_opens(tmp_path: Path) -> None:
    items = read(tmp_path, b'id,text\na,x\nb,"y\nc,z\nd,w\n')
    assert items[1:] == [Rejection("c.csv:3", "a quote opens and never closes", fatal=True)]


def test_a_record_over_the_limit_is_fatal_since_its_end_cannot_be_known(tmp_path: Path) -> None:
    raw = b'id,text\na,x\nb,"' + b"y\n" * 5_000 + b'"\nc,z\n'
    items = read(tmp_path, raw, SourceOptions(max_record_bytes=1_000))
    assert len(items) == 2
    assert isinstance(items[1], Rejection)
    assert items[1].fatal
    assert items[1].where == "c.csv:3"
    assert "1,000 bytes" in items[1].reason


def test_the_wrong_text_field_shows_in_the_header_at_once(tmp_path: Path) -> None:
    with pytest.raises(FieldUnknown, match=r'c\.csv: .*"text".*"id", "body".*--text-field'):
        read(tmp_path, b"id,body\n")
    with pytest.raises(FieldUnknown, match="--id-field"):
        read(tmp_path, b"id,text\n", SourceOptions(id_field="key"))


def test_a_header_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadable, match="header"):
        read(tmp_path, b'"text"x,id\n')


def test_a_missing_id_gets_the_number_of_the_record_and_an_empty_file_has_none(tmp_path: Path) -> None:
    items = read(tmp_path, b"id,text\n,x\n,y\n")
    assert [item.key for item in items if isinstance(item, Record)] == ["c.csv:1", "c.csv:2"]
    assert read(tmp_path, b"") == []
    assert read(tmp_path, b"text\n") == []
