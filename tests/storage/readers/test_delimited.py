"""CSV and TSV files."""

from __future__ import annotations

from pathlib import Path

import pytest

from docmill.storage.readers import FieldUnknown, Record, Rejection, SourceError, SourceOptions, open_source
from docmill.storage.readers.table import VALUE_LEFT_OUT
from tests.storage.readers.reading import OPTIONS, list_keys


def read(folder: Path, raw: bytes, options: SourceOptions = OPTIONS, name: str = "c.csv") -> list[Record | Rejection]:
    """Read a file with these bytes."""
    (folder / name).write_bytes(raw)
    return list(open_source(str(folder / name), options).records())


def test_quotes_hold_commas_quotes_and_line_ends_and_line_numbers_stay_right(tmp_path: Path) -> None:
    raw = b'id,text\r\na,"one, ""two""\r\nthree\nfour"\r\n\r\nb,last\r\n'
    assert read(tmp_path, raw) == [
        Record("a", 'one, "two"\r\nthree\nfour', {}, (), "c.csv:2"),
        Record("b", "last", {}, (), "c.csv:6"),
    ]


def test_other_separators_are_text_if_the_header_has_the_fields(tmp_path: Path) -> None:
    assert read(tmp_path, b"text,n\na;b\tc,1\n") == [Record("c.csv:2", "a;b\tc", {"n": "1"}, (), "c.csv:2")]
    assert read(tmp_path, b"text\tn\na,b\t1\n", name="c.tsv") == [Record("c.tsv:2", "a,b", {"n": "1"}, (), "c.tsv:2")]
    assert read(tmp_path, b"text,a;b;c\nx,y\n") == [Record("c.csv:2", "x", {"a;b;c": "y"}, (), "c.csv:2")]


@pytest.mark.parametrize(("name", "delimiter"), [("c.csv", ";"), ("c.csv", "\t"), ("c.csv", "|"), ("c.tsv", ",")])
def test_columns_may_be_separated_by_other_characters(tmp_path: Path, name: str, delimiter: str) -> None:
    raw = '\ufeff\n"id"|text|n\na|"one | ""two""\nthree"|1.5\nb|x\n'.replace("|", delimiter)
    assert read(tmp_path, raw.encode(), name=name) == [
        Record("a", f'one {delimiter} "two"\nthree', {"n": "1.5"}, (), f"{name}:3"),
        Rejection(f"{name}:5", "2 fields where the header has 3"),
    ]


def test_columns_without_a_name_are_left_out(tmp_path: Path) -> None:
    assert read(tmp_path, b"text,,n,\na,,1,\nb,x,2,\n") == [
        Record("c.csv:2", "a", {"n": "1"}, (), "c.csv:2"),
        Record("c.csv:3", "b", {"n": "2"}, (VALUE_LEFT_OUT,), "c.csv:3"),
    ]


def test_nul_in_a_name_of_the_header_is_replaced(tmp_path: Path) -> None:
    expected = Record("1", "hello", {"au\ufffdthor": "x"}, (), "c.csv:2")
    assert read(tmp_path, b"id,text,au\0thor\n1,hello,x\n") == [expected]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"id,text\na,x,y\nc,z\n", [Rejection("c.csv:2", "3 fields where the header has 2"), "c"]),
        (b"id,text\nb\nc,z\n", [Rejection("c.csv:2", "1 fields where the header has 2"), "c"]),
        (b'id,text\na,"x"y\nb,z\n', [Rejection("c.csv:2", "not CSV: text after a closing quote"), "b"]),
        (
            b'\nid,text\na,"x\nb,y\nc,"z"\nd,w\n',
            [Rejection("c.csv:3", "not CSV: text after a closing quote in line 5; is a quote left open?"), "d"],
        ),
        (
            b'id,text\nb,"y\nc,z\nd,w\n',
            [Rejection("c.csv:2", "a quote opens and never closes; what follows was not read", fatal=True)],
        ),
        (
            b'id,text\na,x\nb,"' + b"y\n" * 5_000 + b'"\nc,z\n',
            [
                "a",
                Rejection(
                    "c.csv:3",
                    "longer than 1,000 bytes, the limit for one document; is a quote left open? What follows was not "
                    "read",
                    fatal=True,
                ),
            ],
        ),
    ],
    ids=["long", "short", "text after a quote", "stray quote", "open quote", "over the limit"],
)
def test_an_invalid_record_is_rejected_and_the_next_one_is_read_unless_its_end_is_unknown(
    tmp_path: Path, raw: bytes, expected: list[Rejection | str]
) -> None:
    items = read(tmp_path, raw, SourceOptions(max_record_bytes=1_000))
    assert [item.key if isinstance(item, Record) else item for item in items] == expected


def test_a_header_without_the_text_field_or_that_is_not_csv_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FieldUnknown, match=r'c\.csv: .*"text".*"id", "body".*--text-field'):
        read(tmp_path, b"id,body\n")
    with pytest.raises(SourceError, match="header"):
        read(tmp_path, b'"text"x,id\n')


def test_a_record_without_an_id_gets_its_place_and_an_empty_file_has_no_records(tmp_path: Path) -> None:
    items = read(tmp_path, b"id,text\n,x\n,y\n")
    assert list_keys(items) == ["c.csv:2", "c.csv:3"]
    assert read(tmp_path, b"") == []
    assert read(tmp_path, b"text\n") == []
