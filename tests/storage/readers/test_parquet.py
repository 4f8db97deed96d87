"""Parquet files: whole, truncated and hostile ones."""

from __future__ import annotations

import datetime
import gzip
import io
import pickle
import uuid
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from docmill.storage.readers import (
    FieldUnknown,
    Record,
    Rejection,
    SourceError,
    SourceOptions,
    SourceUnsupported,
    open_source,
)
from docmill.storage.readers.arrow import parquet as opened
from docmill.storage.readers.confinement import receive
from docmill.storage.readers.records import Row, document
from docmill.storage.readers.table import rows_in_frame, serve
from tests.storage.readers.reading import OPTIONS, list_rejections, list_texts, read, refused

PARIS = datetime.timezone(datetime.timedelta(hours=1))


def saved(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    """Write a Parquet file, and return its path."""
    parquet.write_table(pa.table(columns), path, **options)
    return path


def test_a_table_of_many_groups_is_read_in_order_with_its_other_columns_as_metadata(tmp_path: Path) -> None:
    n = 2_500
    columns = {"id": range(n), "text": [f"text {i}" for i in range(n)], "lang": ["en"] * n}
    path = saved(tmp_path / "c.PARQUET", {name: list(column) for name, column in columns.items()}, row_group_size=400)
    source = open_source(str(path), OPTIONS)
    items = list(source.records())
    assert items == [
        Record(str(i), f"text {i}", {"lang": "en"}, (), f"c.PARQUET:{i + 1}") for i in range(n)
    ]  # fmt: skip
    assert source.name == str(path)
    assert source.size_bytes() == path.stat().st_size
    assert 0 < source.bytes_read <= path.stat().st_size
    assert list(source.records()) == items
    assert len(read(path, SourceOptions(limit=3))) == 3


def test_values_that_json_does_not_have_are_converted(tmp_path: Path) -> None:
    noon = datetime.datetime.fromisoformat("2026-01-02T12:00:00.000005")
    metadata: dict[str, tuple[Any, Any]] = {
        "day": (pa.array([noon.date()]), "2026-01-02"),
        "time": (pa.array([noon.time()]), "12:00:00.000005"),
        "local": (pa.array([noon]), "2026-01-02T12:00:00.000005"),
        "zoned": (pa.array([noon.replace(tzinfo=PARIS)]), "2026-01-02T12:00:00.000005+01:00"),
        "exact": (pa.array([1], pa.timestamp("ns")), "1970-01-01T00:00:00.000000001"),
        "far": (pa.array([2**62], pa.timestamp("ms")), None),
        "took": (pa.array([datetime.timedelta(seconds=90)]), 90.0),
        "price": (pa.array([Decimal("1.50")]), "1.50"),
        "big": (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
        "nan": (pa.array([float("nan")]), None),
        "half": (pa.array([0.5], pa.float32()), 0.5),
        "who": (pa.array([{"name": "x", "tags": ["y", None]}]), {"name": "x", "tags": ["y", None]}),
        "kind": (pa.array(["a"]).dictionary_encode(), "a"),
        "uuid": (pa.array([uuid.UUID(int=5).bytes], pa.uuid()), str(uuid.UUID(int=5))),
        "json": (pa.array(['{"a": [1]}'], pa.json_()), {"a": [1]}),
        "no_json": (pa.array(["{"], pa.json_()), "{"),
    }  # fmt: skip
    path = saved(tmp_path / "c.parquet", {"text": ["t"]} | {name: column for name, (column, _) in metadata.items()})
    [record] = read(path)
    far = record.meta.pop("far", None)
    assert record.meta == {name: value for name, (_, value) in metadata.items() if name != "far"}
    assert record.flags == () if far else record.flags == ("value_left_out",)


def test_binary_data_is_left_out_with_a_flag_and_refused_as_a_text(tmp_path: Path) -> None:
    path = saved(tmp_path / "c.parquet", {"text": ["a", "b"], "image": [b"\x89PNG", None], "deep": [[b"x"], []]})
    assert read(path) == [
        Record("c.parquet:1", "a", {}, ("value_left_out",), "c.parquet:1"),
        Record("c.parquet:2", "b", {"image": None, "deep": []}, (), "c.parquet:2"),
    ]
    refused = Rejection("c.parquet:1", '"image" is binary data, not a string')
    assert read(path, SourceOptions(text_field="image"))[0] == refused


def in_this_process(path: Path) -> list[Record | Rejection]:
    """Read a Parquet file in this process, as the reader's own process does."""
    out = io.BytesIO()
    with path.open("rb") as file:
        serve(partial(opened, file, OPTIONS), out)
    out.seek(0)
    items: list[Record | Rejection] = []
    while (frame := receive(out)) is not None:
        for row in rows_in_frame(*frame, path.name):
            items.append(document(row, path.name, OPTIONS) if isinstance(row, Row) else row)
    return items


def test_wrong_columns_are_refused_with_the_existing_ones(tmp_path: Path) -> None:
    path = saved(tmp_path / "c.parquet", {"body": pa.array([], pa.string()), "nr": pa.array([], pa.int64())})
    assert 'no record has a field "text"; it has "body", "nr"' in refused(FieldUnknown, path)
    assert read(path, SourceOptions("body")) == []


def test_a_damaged_group_of_rows_affects_no_other(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(30)]
    path = saved(tmp_path / "c.parquet", {"text": texts}, row_group_size=10, use_dictionary=False)
    place = parquet.read_metadata(path).row_group(1).column(0).data_page_offset
    raw = bytearray(path.read_bytes())
    raw[place : place + 20] = b"\xff" * 20
    path.write_bytes(raw)
    items = read(path)
    assert list_texts(items) == texts[:10] + texts[20:]
    assert list_rejections(items) == [Rejection("c.parquet:11", "the file is damaged: rows 11 to 20 cannot be read")]


@pytest.mark.long
def test_a_dictionary_of_one_long_text_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    many = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000, pa.int32()), pa.array(["a" * 20_000_000]))
    with parquet.ParquetWriter(path, pa.schema([("text", many.type)]), compression="zstd") as out:
        out.write_table(pa.table({"text": pa.array(["before"]).dictionary_encode()}))
        out.write_table(pa.table({"text": many}))
    assert path.stat().st_size < 2**20
    before, *refused = read(path, SourceOptions(max_record_bytes=10_000_000))
    assert isinstance(before, Record)
    [cut] = refused
    assert "rows 2 to 1,001 cannot be read" in cut.reason or "more memory than a document may" in cut.reason


@pytest.mark.long
def test_a_page_of_one_character_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    path = saved(tmp_path / "c.parquet", {"text": ["a" * 200_000_000]}, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 2**20
    [item] = read(path, SourceOptions(max_record_bytes=10_000_000))
    assert "longer than 10,000,000 bytes" in item.reason or "more memory than a document may" in item.reason


class _Evil:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._path), "w")


def test_pickled_and_unknown_types_are_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    fields = [pa.field("text", pa.string())]
    for name in ("arrow.py_extension_type", "nobody.knows"):
        extension = {
            "ARROW:extension:name": name,
            "ARROW:extension:metadata": pickle.dumps(_Evil(tmp_path / "harmed"), 0),
        }
        fields.append(pa.field(name, pa.string(), metadata=extension))
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array(["c"])]
    parquet.write_table(pa.table(columns, schema=pa.schema(fields)), path)
    [record] = read(path)
    assert record.meta == {"arrow.py_extension_type": "b", "nobody.knows": "c"}
    assert not (tmp_path / "harmed").exists()


def test_a_compressed_or_truncated_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "c.parquet", {"text": ["a"]})
    (tmp_path / "c.parquet.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert "take off a compression" in refused(SourceUnsupported, tmp_path / "c.parquet.gz")
    path.write_bytes(path.read_bytes()[:-1])
    assert "c.parquet is damaged, or no Parquet file" in refused(SourceError, path)
