"""Arrow files: whole, truncated and hostile ones."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import feather, ipc

from docmill.storage.readers import (
    Record,
    Rejection,
    SourceError,
    SourceOptions,
    open_source,
)
from tests.storage.readers.reading import OPTIONS, list_rejections, list_texts, read, refused

WHOLE = pa.table({"id": [f"{n}" for n in range(2_500)], "text": [f"text {n}" for n in range(2_500)]})


def saved(path: Path, table: Any, rows_a_batch: int = 1_000) -> Path:
    """Write an Arrow stream, and return its path."""
    with ipc.new_stream(path, table.schema) as out:
        out.write_table(table, max_chunksize=rows_a_batch)
    return path


def test_a_stream_is_read_in_order_with_its_other_columns_as_metadata(tmp_path: Path) -> None:
    path = saved(tmp_path / "c.ARROW", WHOLE.append_column("n", pa.array(range(2_500))))
    assert read(path) == [Record(f"{n}", f"text {n}", {"n": n}, (), f"c.ARROW:{n + 1}") for n in range(2_500)]
    (tmp_path / "c.arrow.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert len(read(tmp_path / "c.arrow.gz", SourceOptions(limit=3))) == 3


def test_a_file_with_a_footer_is_read(tmp_path: Path) -> None:
    feather.write_feather(WHOLE, str(tmp_path / "c.feather"))
    assert list_texts(read(tmp_path / "c.feather")) == WHOLE["text"].to_pylist()


def test_a_row_without_a_usable_text_affects_no_other_row(tmp_path: Path) -> None:
    texts = pa.array([b"ok", b"caf\xff", b"nul\0", None, b"x" * 3_000], pa.binary()).view(pa.string())
    picture = pa.array([{"bytes": b"\x89PNG", "path": "a.png"}, None, None, {"bytes": None, "path": "b.png"}, None])
    path = saved(tmp_path / "c.arrow", pa.table({"text": texts, "picture": picture}))
    assert read(path, SourceOptions(max_record_bytes=2_000)) == [
        Record("c.arrow:1", "ok", {}, ("value_left_out",), "c.arrow:1"),
        Record("c.arrow:2", "caf\ufffd", {"picture": None}, ("invalid_utf8@3",), "c.arrow:2"),
        Record("c.arrow:3", "nul\ufffd", {"picture": None}, ("nul_replaced",), "c.arrow:3"),
        Rejection("c.arrow:4", '"text" is null, not a string'),
        Rejection("c.arrow:5", "longer than 2,000 bytes, the limit for one document"),
    ]


@pytest.mark.parametrize("cut", [1, 8, 5_000])
def test_a_truncated_file_gives_the_rows_before_and_a_fatal_rejection(cut: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "c.arrow", WHOLE)
    path.write_bytes(path.read_bytes()[:-cut])
    *before, last = read(path)
    n = len(before)
    assert n == (2_000 if cut == 5_000 else 2_500)
    assert last.fatal
    assert last.reason.startswith("the file ")
    assert f"after c.arrow:{n}; nothing more was read" in last.reason


@pytest.mark.parametrize("raw", [b"", b"\xff\xff\xff\xff", b"certainly no arrow" * 100, b"ARROW1\0\0" + b"\xff" * 99])
def test_a_file_that_is_not_arrow_is_refused(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "c.arrow"
    path.write_bytes(raw)
    assert "c.arrow is damaged, or no Arrow file" in refused(SourceError, path)


def test_offsets_that_lead_out_of_a_batch_reject_only_its_rows(tmp_path: Path) -> None:
    path = saved(tmp_path / "c.arrow", WHOLE.select(["text"]), rows_a_batch=1_000)
    raw = bytearray(path.read_bytes())
    end = sum(len(f"text {n}") for n in range(1_000, 2_000))
    place = raw.index(struct.pack("<2i", end - len("text 1999"), end))
    raw[place + 4 : place + 8] = struct.pack("<i", 2**31 - 1)
    path.write_bytes(raw)
    items = read(path)
    assert list_rejections(items) == [
        Rejection("c.arrow:1001", "the file is damaged: rows 1,001 to 2,000 cannot be read")
    ]
    assert [item.where for item in items if isinstance(item, Record)][999:1001] == ["c.arrow:1000", "c.arrow:2001"]


@pytest.mark.long
def test_lengths_that_would_take_very_much_memory_are_refused(tmp_path: Path) -> None:
    big = pa.table({"text": ["a" * 200_000_000, "b"]})
    path = tmp_path / "c.arrow"
    with ipc.new_stream(path, big.schema, options=ipc.IpcWriteOptions(compression="zstd")) as out:
        out.write_table(big)
    assert path.stat().st_size < 2**20
    items = read(path, SourceOptions(max_record_bytes=10_000_000))
    assert isinstance(items[0], Rejection)
    many = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000, pa.int32()), pa.array(["a" * 20_000_000]))
    with ipc.new_stream(path, pa.schema([("text", many.type)])) as out:
        out.write_table(pa.table({"text": many}))
    [refused] = read(path, SourceOptions(max_record_bytes=10_000_000))
    assert isinstance(refused, Rejection)
    path.write_bytes(b"\xff\xff\xff\xff" + (2**31 - 8).to_bytes(4, "little") + b"\0" * 100)
    with pytest.raises(SourceError):
        open_source(str(path), OPTIONS)
