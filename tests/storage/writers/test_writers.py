"""Results as files in each format: all of them are read back, and no partial file has the target's name."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyarrow import parquet
from pyarrow.parquet import ParquetWriter

from docmill.storage.outputs.columns import Form
from docmill.storage.outputs.output_types import TEXT, VECTOR
from docmill.storage.writers import Target, arrow, writer_for_stream, writer_of
from docmill.storage.writers.formats import FormatUnfit, escape_formula, whole_file
from docmill.storage.writers.parts_manifest import is_begun, is_part
from tests.storage.columns import table_of

WrittenRow = dict[str, Any]

# Texts as the store has them: neither NUL nor lone surrogates.
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": TEXTS,
            "task": st.just("summarize"),
            "text": TEXTS,
            "tokens_in": st.integers(0, 2**40),
            "tokens_out": st.none() | st.integers(0, 2**40),
            "flags": st.lists(TEXTS, max_size=2),
            "meta": st.dictionaries(TEXTS, TEXTS | st.integers(-9, 9) | st.none(), max_size=2),
        }
    ),
    min_size=1,
    max_size=5,
)


def write(path: Path, rows: Sequence[WrittenRow], form: str | None = None) -> Path:
    """Write rows into a file, and return its path."""
    Target.of(path, form).write(rows, table_of(*rows[0]) if rows else ())
    return path


def embedded(*vectors: list[Any], **more: Any) -> list[WrittenRow]:
    """Return results with these vectors."""
    return [{"id": f"d{n}", "vector": np.array(vector, np.float32), **more} for n, vector in enumerate(vectors)]


BURIED = ("\n=1", " =1", '"=1"', "\"' \xa0=1", "＝1+1", "＋1", "－1", "＠A1", "\ufeff=1", "\u202e\u200b=1", "\x00=1")


@pytest.mark.parametrize("text", ["", "a=b", "7", "a-b", "'quoted'", '"quoted" = a', "café", "日本語"])
def test_a_text_that_is_no_formula_is_unchanged(text: str) -> None:
    assert escape_formula(text) == text


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1", *BURIED])
def test_no_cell_of_a_csv_is_a_formula(formula: str, tmp_path: Path) -> None:
    path = write(tmp_path / "out.csv", [{"id": formula, "text": formula, "meta": {"a": formula}}])
    with path.open(encoding="utf-8", newline="") as file:
        _, row = csv.reader(file)
    assert row[:2] == [f"'{formula}"] * 2
    assert row[2].startswith("{")


@given(
    table=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 20)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_vectors_are_read_back_exactly(table: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("out")
    rows = embedded(*table.tolist())
    mapped = np.load(write(folder / "v.npy", rows), mmap_mode="r")
    assert mapped.dtype == np.float32
    assert np.array_equal(mapped, table)
    ids = [json.loads(line) for line in (folder / "v.ids.jsonl").read_text().splitlines()]
    assert ids == [{"id": row["id"]} for row in rows]
    columns = parquet.read_table(write(folder / "v.parquet", rows)).to_pydict()
    assert np.array_equal(np.array(columns["vector"], dtype=np.float32), table)
    lines = write(folder / "v.jsonl", rows).read_text().splitlines()
    assert np.array_equal(np.array([json.loads(line)["vector"] for line in lines], dtype=np.float32), table)
    assert max(map(len, lines)) <= 60 + 16 * table.shape[1]  # no more digits than a float32 needs


def test_kept_windows_are_rows_of_the_array_with_their_places(tmp_path: Path) -> None:
    rows = embedded([[1, 2], [3, 4]], windows=[[0, 5], [5, 9]]) + embedded([[5, 6]], windows=[[0, 4]])
    assert Target.of(tmp_path / "v.npy").write(rows) == 2
    assert np.load(tmp_path / "v.npy").tolist() == [[1, 2], [3, 4], [5, 6]]
    ids = [json.loads(line) for line in (tmp_path / "v.ids.jsonl").read_text().splitlines()]
    assert ids == [{"id": "d0", "window": [0, 5]}, {"id": "d0", "window": [5, 9]}, {"id": "d0", "window": [0, 4]}]


def test_csv_for_excel_begins_with_the_byte_order_mark_of_utf8(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "Größe"}]
    for name in ("out.csv", "out.csv.gz", "out"):
        target = Target.of(tmp_path / name, "csv-excel")
        assert target.write(rows, table_of("id", "text")) == 1
        raw = (tmp_path / name).read_bytes()
        raw = gzip.decompress(raw) if name.endswith(".gz") else raw
        assert raw == b"\xef\xbb\xbfid,text\r\na," + "Größe\r\n".encode()
    assert str(Target.of(Path("out.csv"), "csv-excel")) == "out.csv"
    assert Target.of(Path("parts"), "csv-excel").part(0).path == Path("parts/part-00000.csv")
    assert not write(tmp_path / "plain.csv", rows).read_bytes().startswith(b"\xef")
    with pytest.raises(FormatUnfit, match="name of another format than csv-excel"):
        Target.of(Path("x.jsonl"), "csv-excel")


def test_a_group_of_rows_in_parquet_is_bounded_by_its_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "_GROUP_CHARS", 1_000, raising=False)
    rows = [{"id": f"{n}", "task": "summarize", "text": 300 * "x", "flags": [], "meta": {}} for n in range(10)]
    file = parquet.ParquetFile(write(tmp_path / "out.parquet", rows))
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [4, 4, 2]


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet", "out.npy"])
def test_without_results_the_file_has_no_rows(name: str, tmp_path: Path) -> None:
    assert Target.of(tmp_path / name).write([]) == 0
    if name == "out.npy":
        assert np.load(tmp_path / name).shape == (0, 0)
    elif name == "out.parquet":
        assert parquet.read_table(tmp_path / name).num_rows == 0
    else:
        assert (tmp_path / name).read_bytes() == b""


def test_texts_and_vectors_of_different_lengths_are_not_written_as_an_array(tmp_path: Path) -> None:
    with pytest.raises(FormatUnfit, match="only vectors"):
        write(tmp_path / "out.npy", [{"id": "a", "text": "b"}])
    with pytest.raises(FormatUnfit, match="of 2 and of 3 numbers"):
        write(tmp_path / "out.npy", embedded([1, 2], [1, 2, 3]))
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_a_file_sets_its_format_unless_one_is_named() -> None:
    def of(name: str, form: str | None = None) -> tuple[str, str]:
        target = Target.of(Path(name), form)
        return target.writer.name, target.compression

    assert of("a.jsonl") == of("a") == of("a.txt", "jsonl") == ("jsonl", "")
    assert of("a.CSV.gz") == ("csv", ".gz")
    assert of("a.jsonl.zst") == ("jsonl", ".zst")
    assert of("a.parquet") == ("parquet", "")
    assert of("a.dat", "parquet") == ("parquet", "")
    with pytest.raises(FormatUnfit, match=r"leave \.gz out"):
        of("a.npy.gz")


def test_only_formats_of_lines_are_written_to_a_stream(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        assert writer_for_stream("csv").write([{"id": "a"}], table_of("id"), file) == 1
        assert writer_for_stream(None).write([{"id": "a"}], (), file) == 1
        with pytest.raises(FormatUnfit, match="name one with --out"):
            writer_for_stream("parquet")
    assert (tmp_path / "out").read_bytes() == b'id\r\na\r\n{"id":"a"}\n'


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv.gz", "out.parquet", "out.npy"])
def test_an_interrupted_export_leaves_no_file_and_keeps_the_older_one(name: str, tmp_path: Path) -> None:
    def broken() -> Iterator[WrittenRow]:
        yield from embedded([1, 2])
        raise KeyboardInterrupt

    target = Target.of(tmp_path / name)
    with pytest.raises(KeyboardInterrupt):
        target.write(broken())
    assert list(tmp_path.iterdir()) == []
    target.write(embedded([3, 4]))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        target.write(broken())
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_interrupt_at_the_end_of_parquet_raises_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = ParquetWriter.close

    def interrupt(_: ParquetWriter) -> None:
        monkeypatch.setattr(ParquetWriter, "close", close)
        raise KeyboardInterrupt

    monkeypatch.setattr(ParquetWriter, "close", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out.parquet", embedded([1, 2]))  # a warning of its `__del__` fails the test
    assert list(tmp_path.iterdir()) == []


def test_only_the_user_can_read_an_exported_file_unless_it_had_other_permissions(tmp_path: Path) -> None:
    path, ids = tmp_path / "v.npy", tmp_path / "v.ids.jsonl"
    mask = os.umask(0)
    try:
        write(path, embedded([1, 2]))
        assert [file.stat().st_mode & 0o777 for file in (path, ids)] == [0o600, 0o600]
        path.chmod(0o640)
        write(path, embedded([3, 4]))
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o640


def test_an_export_through_a_link_writes_the_file_that_the_link_names(tmp_path: Path) -> None:
    target, link = tmp_path / "target.jsonl", tmp_path / "link.jsonl"
    target.write_bytes(b"old\n")
    link.symlink_to(target)
    assert Target.of(link).write([{"id": 1}]) == 1
    assert link.is_symlink()
    assert target.read_bytes() == b'{"id":1}\n'


def test_an_export_into_a_pipe_is_written_into_the_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert Target.of(pipe).write([{"id": 1}, {"id": 2}]) == 2
    assert os.read(reader, 100) == b'{"id":1}\n{"id":2}\n'
    os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["OUT.TSV", "out.tsv.gz"])
def test_an_unknown_suffix_is_refused_with_the_known_ones_unless_a_format_is_named(name: str) -> None:
    suffixes = re.escape(".jsonl, .csv, .parquet, .xlsx or .npy")
    with pytest.raises(
        FormatUnfit, match=rf"writes no \.\w+ files: name one that ends in {suffixes}, or set the format"
    ):
        Target.of(Path(name))
    assert Target.of(Path(name), "csv").writer.name == "csv"


def test_a_writer_of_some_outputs_refuses_others_and_several_steps() -> None:
    npy = writer_of("npy")
    for outputs in ([TEXT], [VECTOR, VECTOR], []):
        with pytest.raises(FormatUnfit, match=r"only vectors are written as \.npy, of one step"):
            npy.check_takes(outputs)
    with pytest.raises(FormatUnfit, match="it writes jsonl, csv, csv-excel, parquet, xlsx, npy"):
        writer_of("ods")


def test_a_file_may_have_the_longest_name_that_a_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    with whole_file(path) as file:
        file.write(b"all of it")
    assert path.read_bytes() == b"all of it"


def test_parts_are_recognized_by_their_names() -> None:
    part = Target.of(Path("parts.jsonl.zst")).part(7).path.name
    assert part == "part-00007.jsonl.zst"
    assert is_part(part)
    assert is_begun(f".{part}.x1.part")
    assert not is_part("part-00007.ods")


def test_an_integer_too_large_for_arrow_is_null() -> None:
    assert arrow.array(Form.INTEGER, [2**63, 2**63 - 1, None]).to_pylist() == [None, 2**63 - 1, None]
