"""Text files with one text a line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from docmill.storage.readers import Record, Rejection, SourceUnsupported, open_queries


def read(folder: Path, raw: bytes, name: str = "q.txt") -> list[Record | Rejection]:
    (folder / name).write_bytes(raw)
    return list(open_queries(str(folder / name)).records())


def test_every_line_is_a_text_and_blank_ones_count_in_line_numbers_only(tmp_path: Path) -> None:
    raw = b"\xef\xbb\xbf one \r\n\n \ntwo\xff\nlast"
    expected = [
        Record("q.txt:1", "one", {}, (), "q.txt:1"),
        Record("q.txt:2", "two\ufffd", {}, ("invalid_utf8@16",), "q.txt:4"),
        Record("q.txt:3", "last", {}, (), "q.txt:5"),
    ]
    assert read(tmp_path, raw) == expected
    assert read(tmp_path, gzip.compress(raw), "q.txt.gz")[2] == Record("q.txt.gz:3", "last", {}, (), "q.txt.gz:5")


def test_queries_are_read_from_records_too(tmp_path: Path) -> None:
    assert read(tmp_path, b'{"id": 7, "text": "one"}\nbad\n', "q.jsonl") == [
        Record("7", "one", {}, (), "q.jsonl:1"),
        Rejection("q.jsonl:2", "not JSON: Expecting value at column 1"),
    ]


def test_other_files_are_refused_with_what_is_read(tmp_path: Path) -> None:
    with pytest.raises(SourceUnsupported, match=r"q.md is not .* these are: .jsonl, .*, .txt \(also .gz or .zst\)"):
        read(tmp_path, b"one\n", "q.md")
