"""Streams of files: small files that expand very far, and encodings."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from docmill.storage.readers import (
    FieldUnknown,
    Record,
    Rejection,
    SourceError,
    SourceOptions,
    SourceUnsupported,
    open_source,
)
from docmill.storage.readers.errors import BrokenStream
from docmill.storage.readers.files import StreamSource
from docmill.storage.readers.streams import Expansion, decode_file, find_encoding, lines, text_records
from tests.storage.readers.reading import list_rejections, read, refused, zipped

MIB = 2**20
TEXT = "Größe – naïve 中文 🐋"
LINES = "".join(json.dumps({"id": f"k{n}", "text": f"{TEXT} {n}"}, ensure_ascii=False) + "\n" for n in range(3))
CSV = "id;text\r\n" + "".join(f'k{n};"{TEXT}\n{n}"\r\n' for n in range(3))


@pytest.mark.parametrize("size", [4, 5, 6, 7])
def test_a_line_that_is_too_long_affects_no_other(size: int) -> None:
    line = b"x" * (size - 1) + b"\n"
    expected = line if size <= 5 else size
    assert list(lines(io.BytesIO(b"a\n" + line + b"b\nc\n"), 5)) == [b"a\n", expected, b"b\n", b"c\n"]


def expanding(pack: str, start: bytes, piece: bytes, times: int, path: Path) -> Path:
    """Write a compressed file of a start and many equal pieces."""
    with path.open("wb") as file:
        if pack == ".gz":
            stream = gzip.GzipFile(fileobj=file, mode="wb")
        else:
            stream = zstandard.ZstdCompressor().stream_writer(file)  # type: ignore[assignment]
        with stream:
            stream.write(start)
            for _ in range(times):
                stream.write(piece)
    return path


def reasons(path: Path) -> list[str]:
    """Return the reasons of a file's rejections."""
    return [item.reason for item in list_rejections(read(path))]


@pytest.mark.parametrize("pack", [".gz", ".zst"])
@pytest.mark.parametrize(
    ("name", "start"), [("a.jsonl", b""), ("a.csv", b""), ("a.csv", b'id,text\n1,one\n2,"'), ("a.txt", b"")]
)
def test_a_small_file_of_very_many_lines_is_refused(name: str, start: bytes, pack: str, tmp_path: Path) -> None:
    (reason,) = reasons(expanding(pack, start, b"\n" * MIB, 8, tmp_path / (name + pack)))
    assert "lines, far more than texts do (if it is no attack: decompress it first)" in reason


def test_a_table_of_few_bytes_with_very_many_rows_is_read_up_to_the_limit(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": pa.repeat("x", 1_000_000)}), tmp_path / "a.parquet")
    *records, last = read(tmp_path / "a.parquet")
    assert 100_000 < len(records) < 500_000
    assert last.fatal
    assert "(if it is no attack: save it as JSON lines)" in last.reason


@pytest.mark.long
def test_texts_with_an_ordinary_compression_are_read_to_their_end(tmp_path: Path) -> None:
    path = expanding(
        ".gz", b"", b'{"text": "%s"}\n' % (b"These words are repeated. " * 40), 99_000, tmp_path / "a.jsonl.gz"
    )
    assert sum(isinstance(item, Record) for item in open_source(str(path), SourceOptions()).records()) == 99_000
    expansion = Expansion()
    for n in range(1, 1000):
        expansion.add(n * MIB, 100 * MIB, MIB)
    with pytest.raises(BrokenStream):
        expansion.add(1000 * MIB, 0, 2_000 * MIB)


def test_a_header_of_very_many_columns_is_refused_and_a_row_of_as_many_fields_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"," * 200_000 + b"\n1,one\n")
    assert "a.csv: it has 200,001 columns; up to 100,000 are read" in refused(FieldUnknown, path)
    path.write_bytes(b"\n" * 1000 + b"id,text\n" + b"," * 200_000 + b"\n1,one\n")
    rejection, record = read(path)
    assert (rejection.where, rejection.keys) == ("a.csv:1002", ())
    assert isinstance(record, Record)
    assert record.where == "a.csv:1003"


def test_a_record_of_very_many_values_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "x", "n": [' + b"0," * 10_000_001 + b'0]}\n{"text": "y"}\n')
    assert reasons(path) == ["more than 10,000,000 values in one record"]


def records(path: Path, encoding: str | None = None) -> list[Record | Rejection]:
    return read(path, SourceOptions(encoding=encoding))


def list_documents(items: list[Record | Rejection]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return the key, text and flags of each record."""
    return [(item.key, item.text, item.flags) for item in items if isinstance(item, Record)]


class Drops(io.RawIOBase):
    """A pipe that gives the first four bytes at once, and every further one by itself."""

    def __init__(self, raw: bytes) -> None:
        self._left = [raw[:4], *(bytes([byte]) for byte in raw[4:])]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        piece = self._left.pop(0) if self._left else b""
        buffer[: len(piece)] = piece
        return len(piece)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-be"])
def test_a_byte_order_mark_sets_the_encoding_of_a_file(encoding: str, tmp_path: Path) -> None:
    mark = "\ufeff".encode(encoding) if encoding.endswith("be") else b""
    (tmp_path / "a.jsonl").write_bytes(mark + LINES.encode(encoding))
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(mark + CSV.encode(encoding)))
    (tmp_path / "c.txt").write_bytes(mark + TEXT.encode(encoding))
    assert list_documents(records(tmp_path / "a.jsonl")) == [(f"k{n}", f"{TEXT} {n}", ()) for n in range(3)]
    assert list_documents(records(tmp_path / "b.csv.gz")) == [(f"k{n}", f"{TEXT}\n{n}", ()) for n in range(3)]
    assert list_documents(records(tmp_path / "c.txt")) == [("c.txt", TEXT, ())]
    assert list_documents(records(tmp_path / "c.txt", "cp1252")) == [("c.txt", TEXT, ())]  # the mark counts
    (tmp_path / "d.zip").write_bytes(zipped({"c.txt": (tmp_path / "c.txt").read_bytes()}))
    assert list_documents(records(tmp_path / "d.zip")) == [("c.txt", TEXT, ())]
    assert [text for _, text, _ in list_documents(records(tmp_path))].count(TEXT) == 2
    for stdin in (io.BytesIO(mark + LINES.encode(encoding)), io.BufferedReader(Drops(mark + LINES.encode(encoding)))):
        piped = StreamSource(stdin, SourceOptions())
        assert list_documents(list(piped.records())) == [(f"k{n}", f"{TEXT} {n}", ()) for n in range(3)]


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16-le", "shift_jis", "koi8-r", "gb18030"])
def test_an_option_sets_the_encoding_of_files_without_a_mark(encoding: str, tmp_path: Path) -> None:
    text = "Größe" if encoding in {"cp1252", "latin-1"} else "слово"
    (tmp_path / "a.jsonl").write_bytes(f'{{"text": "{text}"}}\n'.encode(encoding))
    (tmp_path / "b.csv").write_bytes(f"id,text\n1,{text}\n".encode(encoding))
    (tmp_path / "c.txt").write_bytes(text.encode(encoding))
    assert [item[1:] for item in list_documents(records(tmp_path, encoding))] == [(text, ())] * 3
    assert list_documents(records(tmp_path / "b.csv", encoding)) == [("1", text, ())]
    stdin = io.BytesIO((tmp_path / "a.jsonl").read_bytes())
    piped = StreamSource(stdin, SourceOptions(encoding=encoding))
    assert [item[1:] for item in list_documents(list(piped.records()))] == [(text, ())]


@pytest.mark.parametrize(
    ("name", "raw", "encoding", "expected"),
    [
        ("a.jsonl", b'{"text": "\x82\xa0\xff"}\n{"text": "a"}\n', "shift_jis", [("あ\ufffd", 13), ("a", None)]),
        ("a.txt", b"\xff\xfea\0b", None, [("a\ufffd", 1)]),  # it ends within a character
        ("a.txt", b"\xff\xfea\0\0\xd8b\0c\0", None, [("a\ufffdbc", 1)]),
        ("a.csv", b"id,text\n1,a\x82", "shift_jis", [("a\ufffd", 11)]),
        ("a.txt", b"text\n+2AA-b", "utf-7", [("text\n\ufffdb", 5)]),  # half a character, which the codec lets through
        ("a.csv", b"text\n+2AA-b", "utf-7", [("\ufffdb", 5)]),
    ],
)
def test_bytes_outside_of_the_encoding_are_replaced_and_flagged(
    name: str, raw: bytes, encoding: str | None, expected: list[tuple[str, int | None]], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(raw)
    flagged = [(text, () if place is None else (f"invalid_utf8@{place}",)) for text, place in expected]
    assert [item[1:] for item in list_documents(records(tmp_path / name, encoding))] == flagged


def test_a_long_file_is_converted_to_its_end(tmp_path: Path) -> None:
    """The file is longer than the pieces that are read and converted."""
    texts = [f"{n} {'слово ' * 20_000}".strip() for n in range(4)]
    (tmp_path / "a.csv").write_bytes("".join(["id,text\n", *(f"k,{text}\n" for text in texts)]).encode("koi8-r"))
    assert [text for _, text, _ in list_documents(records(tmp_path / "a.csv", "koi8-r"))] == texts


def test_an_unknown_encoding_is_refused() -> None:
    for name in ("utf-9", "base64", "rot13", "unicode_escape", "a\0b", ""):
        with pytest.raises(SourceUnsupported, match="no encoding is named"):
            find_encoding(name)
    assert find_encoding("Latin1") == "iso8859-1"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_records_without_a_mark_are_refused_with_their_likely_encoding(encoding: str, tmp_path: Path) -> None:
    for name, raw in (("a.jsonl", LINES), ("a.csv", CSV)):
        (tmp_path / name).write_bytes(raw.encode(encoding))
        assert f"name its encoding, probably --encoding {encoding}" in refused(SourceError, tmp_path / name)
    with pytest.raises(SourceError, match=f"^- is no UTF-8.*--encoding {encoding}"):
        StreamSource(io.BytesIO(LINES.encode(encoding)), SourceOptions())


def test_sources_with_their_own_encoding_refuse_the_option(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    for source in (str(tmp_path / "a.parquet"), "sqlite:///x.db?SELECT 1", "datasets://a/b"):
        assert "leave out --encoding" in refused(SourceUnsupported, source, SourceOptions(encoding="cp1252"))


def test_a_record_of_several_lines_begins_at_the_line_that_its_reader_names() -> None:
    raw = "\ufeffbefore\n@1\nGröße\n\n".encode() + b"@2\n\xff\n@3\n" + b"x" * 50 + b"\n@4\n" + b"y\n" * 20 + b"@5\xff"
    texts = list(text_records(io.BytesIO(raw), 20, lambda line: line.startswith(b"@")))
    assert texts == [
        (2, "@1\nGröße\n\n", ()),
        (5, "@2\n\ufffd\n", ("invalid_utf8@25",)),
        (7, None, ()),
        (9, None, ()),
        (30, "@5\ufffd", (f"invalid_utf8@{len(raw) - 1}",)),
    ]
    assert [*text_records(io.BytesIO(b"\xef\xbb\xbf@\xff"), 20, bool)] == [(1, "@\ufffd", ("invalid_utf8@4",))]


# A UTF-16 file that begins with NUL begins as one of UTF-32 does.
@given(text=st.text().filter(lambda text: not text.startswith("\0")), mark=st.sampled_from(["utf-16", "utf-32"]))
def test_any_text_is_read_back_from_its_encoding(text: str, mark: str) -> None:
    assert decode_file(text.encode(mark), "cp1252") == (text.removeprefix("\ufeff"), ())
    assert decode_file(text.encode("utf-8-sig"), "cp1252") == (text, ())
