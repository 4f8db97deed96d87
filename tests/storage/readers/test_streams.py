"""Small files that expand far are refused, whatever reads them, and nobody waits for all of what they hold."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import zstandard

from docmill.storage.readers import FieldUnknown, Record, Rejection, SourceOptions, open_source
from docmill.storage.readers.errors import BrokenStream
from docmill.storage.readers.streams import Expansion

MIB = 2**20


def expanding(pack: str, start: bytes, piece: bytes, times: int, path: Path) -> Path:
    """Write a compressed file of a start and so many equal pieces."""
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


def rejected(path: Path) -> list[str]:
    items = open_source(str(path), SourceOptions()).records()
    return [item.reason for item in items if isinstance(item, Rejection)]


@pytest.mark.parametrize("pack", [".gz", ".zst"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.txt", "a.md"])
def test_a_small_file_of_blank_lines_alone_is_refused(name: str, pack: str, tmp_path: Path) -> None:
    path = expanding(pack, b"", b"\n" * MIB, 8, tmp_path / (name + pack))
    (reason,) = rejected(path)
    assert "lines, far more than texts do (if it is no attack: decompress it first)" in reason


@pytest.mark.parametrize("pack", [".gz", ".zst"])
def test_a_field_of_many_lines_in_a_small_csv_file_is_refused(pack: str, tmp_path: Path) -> None:
    path = expanding(pack, b'id,text\n1,one\n2,"', b"\n" * MIB, 8, tmp_path / f"a.csv{pack}")
    (reason,) = rejected(path)
    assert "far more than texts do" in reason
    assert "nothing more was read" in reason


def test_a_small_file_of_one_long_line_is_refused(tmp_path: Path) -> None:
    path = expanding(".zst", b"", b"x" * MIB, 100, tmp_path / "a.jsonl.zst")
    (reason,) = rejected(path)
    assert "bytes, far more than texts do" in reason


def test_a_table_of_few_bytes_with_very_many_rows_is_read_up_to_the_limit(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": pa.repeat("x", 1_000_000)}), tmp_path / "a.parquet")
    *records, last = open_source(str(tmp_path / "a.parquet"), SourceOptions()).records()
    assert 100_000 < len(records) < 500_000
    assert isinstance(last, Rejection)
    assert last.fatal
    assert "(if it is no attack: save it as JSON lines)" in last.reason


def test_texts_that_shrink_as_well_as_texts_do_are_read_to_their_end(tmp_path: Path) -> None:
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
    with pytest.raises(FieldUnknown, match=r"a\.csv: it has 200,001 columns; up to 100,000 are read"):
        open_source(str(path), SourceOptions())
    path.write_bytes(b"\n" * 1000 + b"id,text\n" + b"," * 200_000 + b"\n1,one\n")
    rejection, record = open_source(str(path), SourceOptions()).records()
    assert isinstance(rejection, Rejection)
    assert (rejection.where, rejection.keys) == ("a.csv:1002", ())
    assert isinstance(record, Record)
    assert record.where == "a.csv:1003"


def test_a_record_of_very_many_values_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "x", "n": [' + b"0," * 10_000_001 + b'0]}\n{"text": "y"}\n')
    assert rejected(path) == ["more than 10,000,000 values in one record"]
