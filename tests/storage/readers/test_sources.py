"""Sources of every kind, plain, compressed and damaged."""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from docmill.storage.features import Feature
from docmill.storage.readers import (
    FieldUnknown,
    Record,
    Rejection,
    SourceError,
    SourceMissing,
    SourceOptions,
    SourceUnsupported,
    open_queries,
    open_source,
)
from docmill.storage.readers.files import StreamSource
from tests.storage.readers.reading import OPTIONS, list_keys, read, refused
from tests.storage.readers.site import serving

MB = 2**20
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,  # as the zstd command does
}
LINES = [json.dumps({"id": f"{n}", "text": f"text {n} " * 40}).encode() + b"\n" for n in range(3_000)]
READER = """
from docmill.storage.readers import Record, Rejection, Row, Source

def rows(stream, name, options):
    for number, line in enumerate(stream, 1):
        title, _, text = line.decode().rstrip().partition("|")
        where = f"{name}:{number}"
        yield Row({"text": text, "title": title}, where, (), False) if text else Rejection(where, "no bar")

class Wiki(Source):
    def __init__(self, url, options):
        self.name = url
    def records(self):
        yield Record("page", "said", {}, (), "page")

def breaks(stream, name, options):
    yield Row({"text": "fine"}, name, (), True)
    raise KeyError("secret")

def wrong(stream, name, options):
    yield {"text": "no row"}

def refuses(url, options):
    raise RuntimeError(url)

def nothing(url, options):
    return None

class Half:
    name = "half"
    def __init__(self, url, options):
        pass
    def records(self):
        yield Record("page", "said", {}, (), "page")

constant = 5
"""
Install = Callable[..., None]


def peak_bytes(consume: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        consume()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_compressed_files_of_several_parts_are_read_to_the_end(tmp_path: Path, compression: str) -> None:
    path = tmp_path / f"c.v2.NDJSON{compression}"
    half = len(LINES) // 2
    path.write_bytes(b"".join(COMPRESS[compression](b"".join(part)) for part in (LINES[:half], LINES[half:], [])))
    assert list_keys(read(path)) == [str(n) for n in range(3_000)]


@pytest.mark.parametrize("compression", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["truncated", "corrupt"])
def test_a_broken_file_ends_with_a_fatal_rejection(tmp_path: Path, compression: str, damage: str) -> None:
    path = tmp_path / f"c.jsonl{compression}"
    blocks = [b"".join(LINES[start : start + 500]) for start in range(0, 3_000, 500)]
    whole = b"".join(map(COMPRESS[compression], blocks))
    middle = len(whole) // 2
    damaged = bytes(255 - byte for byte in whole[middle : middle + 64])
    path.write_bytes(whole[:middle] + (b"" if damage == "truncated" else damaged + whole[middle + 64 :]))
    *before, last = read(path)
    assert last.fatal
    assert last.where.startswith(f"c.jsonl{compression}@")
    assert f"after c.jsonl{compression}:{len(before)}" in last.reason
    assert "nothing more was read" in last.reason
    assert len(before) >= 1_000
    assert list_keys(before) == [str(n) for n in range(len(before))]


@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_a_bomb_is_refused_in_bounded_memory(tmp_path: Path, compression: str) -> None:
    path = tmp_path / f"c.jsonl{compression}"
    path.write_bytes(COMPRESS[compression](LINES[0] + bytes(300 * MB)))
    assert path.stat().st_size < MB
    items: list[Any] = []
    peak = peak_bytes(lambda: items.extend(read(path, SourceOptions(max_record_bytes=4 * MB))))
    assert "far more than texts do" in items[-1].reason
    assert peak < 64 * MB


def test_a_zstd_window_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl.zst"
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path.write_bytes(stream.compress(LINES[0]) + stream.flush())
    (item,) = read(path)
    assert "128 MiB" in item.reason


def generated(lines: int) -> Iterator[bytes]:
    for n in range(lines):
        yield json.dumps({"id": f"d{n}", "text": f"{n} word " * 120}).encode() + b"\n"


@pytest.mark.parametrize("compression", ["", ".zst"])
def test_memory_does_not_grow_with_the_length_of_the_file(tmp_path: Path, compression: str) -> None:
    def peak(lines: int) -> int:
        path = tmp_path / f"{lines}.jsonl{compression}"
        path.write_bytes(COMPRESS[compression](b"".join(generated(lines))))
        return peak_bytes(lambda: sum(1 for _ in open_source(str(path), OPTIONS).records()))

    small, large = peak(1_000), peak(20_000)
    assert large < small * 1.5 + MB


@pytest.mark.parametrize("name", ["nothing.jsonl", "no\0thing", "nothing " * 1000])
def test_a_missing_source_is_reported(tmp_path: Path, name: str) -> None:
    message = refused(SourceMissing, tmp_path / name)
    assert "no such file or folder" in message
    assert len(message) < 300


def test_json_that_is_no_lines_is_refused_with_the_command_that_makes_them(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("[]")
    message = "c.json: docmill reads JSON lines; to make them of an array: jq -c '.[]' FILE.json >FILE.jsonl"
    assert refused(SourceUnsupported, tmp_path / "c.json") == message


@pytest.mark.parametrize("name", ["c.png", "c", "c.gz", "c.rar", ".jsonl", "c.jsonl.bz2"])
def test_an_unsupported_kind_is_refused_with_the_supported_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    assert "these are: .jsonl, .ndjson, .csv, .tsv, .parquet," in refused(SourceUnsupported, tmp_path / name)


def test_a_pipe_and_a_device_are_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    message = "is a pipe, not a file; pass it on standard input, as -"
    assert message in refused(SourceError, tmp_path / "pipe.jsonl")
    assert "is a device" in refused(SourceError, "/dev/zero")


def test_a_link_to_a_file_is_followed_and_a_circle_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_bytes(LINES[0])
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    assert open_source(str(tmp_path / "link.jsonl"), OPTIONS).name == str(tmp_path / "real.jsonl")
    (tmp_path / "circle.jsonl").symlink_to("circle.jsonl")
    refused(SourceError, tmp_path / "circle.jsonl")


def test_standard_input_is_read_from_a_pipe_as_it_comes() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stdin, os.fdopen(writing, "wb", buffering=0) as out:
        out.write(LINES[0] + LINES[1])
        records = StreamSource(stdin, OPTIONS).records()
        assert next(records).where == "-:1"
        assert next(records).where == "-:2"
        out.write(LINES[2])
        assert next(records).where == "-:3"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Yield a function that makes a module, and a feature of its name with readers."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    brought: list[Feature] = []
    monkeypatch.setattr("docmill.storage.readers.sources.features", lambda: brought)

    def add_feature(name: str, readers: dict[str, str], code: str = READER) -> None:
        (site / f"{name}.py").write_text(code)
        brought.append(Feature(name, readers=readers))

    yield add_feature
    for name in ("tiny", "other"):
        sys.modules.pop(name, None)


def test_a_feature_can_read_a_suffix(install: Install, tmp_path: Path) -> None:
    install("tiny", {".bar": "tiny:rows"})
    raw = b"a|first\nnothing\nb|nul\0\n"
    (tmp_path / "c.BAR").write_bytes(raw)
    assert list(open_source(str(tmp_path / "c.BAR"), OPTIONS).records()) == [
        Record("c.BAR:1", "first", {"title": "a"}, (), "c.BAR:1"),
        Rejection("c.BAR:2", "no bar"),
        Record("c.BAR:3", "nul\ufffd", {"title": "b"}, ("nul_replaced",), "c.BAR:3"),
    ]
    (tmp_path / "d.bar.gz").write_bytes(gzip.compress(raw))
    assert len(list(open_source(str(tmp_path / "*.*"), SourceOptions(limit=3)).records())) == 4
    assert 'it has "text", "title"' in refused(FieldUnknown, str(tmp_path / "d.bar.gz"), SourceOptions("body"))


def test_a_feature_can_read_a_scheme(install: Install) -> None:
    install("tiny", {"wiki": "tiny:Wiki"})
    source = open_source("WIKI://en/page", OPTIONS)
    assert source.name == "WIKI://en/page"
    assert list(source.records()) == [Record("page", "said", {}, (), "page")]


def test_built_in_kinds_come_first(install: Install, tmp_path: Path) -> None:
    install("tiny", {".jsonl": "tiny:rows", "sqlite": "tiny:Wiki"})
    (tmp_path / "c.jsonl").write_text('{"text": "x"}\n')
    assert len(list(open_source(str(tmp_path / "c.jsonl"), OPTIONS).records())) == 1
    assert "no query" in refused(SourceUnsupported, "sqlite:///x")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("gone:rows", r"the feature tiny brings gone:rows, which cannot be loaded \(ModuleNotFoundError: No module"),
        ("tiny:gone", r"the feature tiny brings tiny:gone, which cannot be loaded \(AttributeError"),
        ("tiny:constant", r"the reader tiny:constant of the feature tiny is no function"),
    ],
)
def test_a_reader_that_does_not_load_is_named(value: str, reason: str, install: Install, tmp_path: Path) -> None:
    install("tiny", {".bar": value, "wiki": value})
    (tmp_path / "c.bar").write_bytes(b"")
    for source in (str(tmp_path / "c.bar"), "wiki://x"):
        assert re.search(reason, refused(SourceUnsupported, source))
    (tmp_path / "c.jsonl").write_text('{"text": "x"}\n')  # a built-in reader still works
    open_source(str(tmp_path / "c.jsonl"), OPTIONS)


def test_a_failing_reader_is_named_and_its_error_is_not_quoted(install: Install, tmp_path: Path) -> None:
    schemes = {"a": "tiny:refuses", "b": "tiny:nothing", "h": "tiny:Half"}
    install("tiny", {".a": "tiny:breaks", ".b": "tiny:wrong", **schemes})
    for name in ("c.a", "c.b"):
        (tmp_path / name).write_bytes(b"")
    records = open_source(str(tmp_path / "c.a"), OPTIONS).records()
    assert isinstance(next(records), Record)
    with pytest.raises(SourceError, match=r"c\.a: the reader tiny:breaks of the feature tiny failed \(KeyE"):
        next(records)
    *_, last = read(tmp_path / "*.a")
    line = (tmp_path / "site" / "tiny.py").read_text().split('raise KeyError("secret")')[0].count("\n") + 1
    reason = f"the reader tiny:breaks of the feature tiny failed (KeyError in tiny.py, line {line})"
    assert last == Rejection("c.a", f"c.a: {reason}", fatal=True)
    message = refused(SourceError, tmp_path / "c.b")
    assert "tiny:wrong of the feature tiny yields dict, not Row or Rejection" in message
    message = refused(SourceError, "a://me:geheim@x")
    assert message.endswith("a://: the reader tiny:refuses of the feature tiny failed (RuntimeError)")
    for url in ("b://x", "h://x"):
        assert "gives no source" in refused(SourceError, url)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("None, name, (), True", "yields a Row whose fields is of type NoneType, not dict"),
        ("{'text': 'x'}, None, (), True", "yields a Row whose where is of type NoneType, not str"),
        ("{'text': 'x', 'at': {1}}, name, (), True", "yields a Row with a field that is no JSON value"),
        ("{'text': 'x', 2: 'y'}, name, (), False", "yields a Row with a field that is no JSON value"),
    ],
)
def test_a_reader_that_yields_an_invalid_row_is_named(
    row: str, reason: str, install: Install, tmp_path: Path
) -> None:
    code = f"from docmill.storage.readers import Row\n\ndef rows(stream, name, options):\n    yield Row({row})\n"
    install("tiny", {".bar": "tiny:rows"}, code)
    (tmp_path / "c.bar").write_bytes(b"")
    message = refused(SourceError, tmp_path / "c.bar")
    assert message.startswith(f"c.bar: the reader tiny:rows of the feature tiny {reason}")


def test_two_readers_of_one_suffix_are_refused_with_both_names(install: Install, tmp_path: Path) -> None:
    install("tiny", {".bar": "tiny:rows"})
    install("other", {".bar": "other:rows"})
    (tmp_path / "c.bar").write_bytes(b"")
    assert "of the features tiny and other; uninstall" in refused(SourceUnsupported, tmp_path / "c.bar")


def read_queries(folder: Path, raw: bytes, name: str = "q.txt") -> list[Record | Rejection]:
    (folder / name).write_bytes(raw)
    return list(open_queries(str(folder / name)).records())


def test_every_line_is_a_query_and_blank_lines_count_only_in_line_numbers(tmp_path: Path) -> None:
    raw = b"\xef\xbb\xbf one \r\n\n \ntwo\xff\nlast"
    expected = [
        Record("q.txt:1", "one", {}, (), "q.txt:1"),
        Record("q.txt:4", "two\ufffd", {}, ("invalid_utf8@16",), "q.txt:4"),
        Record("q.txt:5", "last", {}, (), "q.txt:5"),
    ]
    assert read_queries(tmp_path, raw) == expected
    assert read_queries(tmp_path, gzip.compress(raw), "q.txt.gz")[2] == Record(
        "q.txt.gz:5", "last", {}, (), "q.txt.gz:5"
    )


def test_queries_are_read_by_the_url_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "q 1.txt").write_bytes(b"one\n")
    assert list(open_queries(f"file://{tmp_path}/q%201.txt").records()) == [
        Record("q 1.txt:1", "one", {}, (), "q 1.txt:1")
    ]
    with serving() as site:
        site.files["/q.txt.gz"] = gzip.compress(b"one\n")
        assert list(open_queries(f"{site.url}/q.txt.gz").records()) == [
            Record("q.txt.gz:1", "one", {}, (), "q.txt.gz:1")
        ]


def test_queries_are_read_from_records_too(tmp_path: Path) -> None:
    assert read_queries(tmp_path, b'{"id": 7, "text": "one"}\nbad\n', "q.jsonl") == [
        Record("7", "one", {}, (), "q.jsonl:1"),
        Rejection("q.jsonl:2", "not JSON: Expecting value at column 1"),
    ]


def test_other_files_of_queries_are_refused_with_the_supported_kinds(tmp_path: Path) -> None:
    with pytest.raises(SourceUnsupported, match=r"q.md is not .* these are: .jsonl, .*, .txt \(also .gz or .zst\)"):
        read_queries(tmp_path, b"one\n", "q.md")
