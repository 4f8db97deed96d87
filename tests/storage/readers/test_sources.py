"""Sources of every kind, plain, compressed and damaged."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from docmill.storage.readers import (
    Record,
    Rejection,
    SourceError,
    SourceMissing,
    SourceOptions,
    SourceUnreadable,
    SourceUnsupported,
    open_source,
)

OPTIONS = SourceOptions()
MB = 2**20
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,  # as the zstd command does
}
LINES = [json.dumps({"id": f"{n}", "text": f"text {n} " * 40}).encode() + b"\n" for n in range(3_000)]


def read(path: Path, options: SourceOptions = OPTIONS) -> list[Record | Rejection]:
    return list(open_source(str(path), options).records())


def peak_bytes(consume: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        consume()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("c.jsonl", b'{"id": "a", "text": "x"}\n'),
        ("c.ndjson", b'{"id": "a", "text": "x"}\n'),
        ("c.csv", b"id,text\na,x\n"),
        ("c.tsv", b"id\ttext\na\tx\n"),
        ("c.v2.JSONL", b'{"id": "a", "text": "x"}\n'),
    ],
)
def test_each_kind_of_file_is_read_plain_and_compressed(
    tmp_path: Path, name: str, raw: bytes, compression: str
) -> None:
    path = tmp_path / (name + compression)
    path.write_bytes(COMPRESS[compression](raw))
    source = open_source(str(path), OPTIONS)
    (found,) = source.records()
    assert isinstance(found, Record)
    assert (found.key, found.text) == ("a", "x")
    assert source.bytes_read == source.size_bytes() == path.stat().st_size


@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_compressed_files_of_several_parts_are_read_to_the_end(tmp_path: Path, compression: str) -> None:
    path = tmp_path / f"c.jsonl{compression}"
    half = len(LINES) // 2
    path.write_bytes(b"".join(COMPRESS[compression](b"".join(part)) for part in (LINES[:half], LINES[half:], [])))
    assert [item.key for item in read(path) if isinstance(item, Record)] == [str(n) for n in range(3_000)]


def test_zeros_after_a_gzip_file_are_padding_and_anything_else_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress(LINES[0]) + b"\0" * 512)
    assert len(read(path)) == 1
    path.write_bytes(gzip.compress(LINES[0]) + b"garbage")
    last = read(path)[-1]
    assert isinstance(last, Rejection)
    assert last.fatal


@pytest.mark.parametrize("compression", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["truncated", "corrupt"])
def test_a_broken_file_gives_what_came_before_and_a_fatal_rejection(
    tmp_path: Path, compression: str, damage: str
) -> None:
    path = tmp_path / f"c.jsonl{compression}"
    blocks = [b"".join(LINES[start : start + 500]) for start in range(0, 3_000, 500)]
    whole = b"".join(map(COMPRESS[compression], blocks))
    middle = len(whole) // 2
    damaged = bytes(255 - byte for byte in whole[middle : middle + 64])
    path.write_bytes(whole[:middle] + (b"" if damage == "truncated" else damaged + whole[middle + 64 :]))
    *before, last = read(path)
    assert isinstance(last, Rejection)
    assert last.fatal
    assert last.where.startswith(f"c.jsonl{compression}@")
    assert f"after c.jsonl{compression}:{len(before)}" in last.reason
    assert "nothing more was read" in last.reason
    assert len(before) >= 1_000
    assert [item.key for item in before if isinstance(item, Record)] == [str(n) for n in range(len(before))]


def test_a_file_that_is_no_gzip_at_all_says_so(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(LINES[0])
    (found,) = read(path)
    assert found == Rejection(
        f"c.jsonl.gz@{len(LINES[0])}", "the gzip data is damaged, at its beginning; nothing more was read", fatal=True
    )


@pytest.mark.parametrize("compression", [".gz", ".zst"])
@pytest.mark.parametrize("name", ["c.jsonl", "c.csv"])
def test_a_bomb_is_refused_in_bounded_memory(tmp_path: Path, name: str, compression: str) -> None:
    path = tmp_path / f"{name}{compression}"
    head = LINES[0] if name == "c.jsonl" else b"id,text\n"
    compress = zstandard.ZstdCompressor().compressobj() if compression == ".zst" else None
    with path.open("wb") as out:
        if compress is None:
            with gzip.GzipFile(fileobj=out, mode="wb") as zipped:
                zipped.write(head)
                for _ in range(300):
                    zipped.write(bytes(MB))
        else:
            out.write(compress.compress(head))
            for _ in range(300):
                out.write(compress.compress(bytes(MB)))
            out.write(compress.flush())
    assert path.stat().st_size < MB
    found: list[Record | Rejection] = []
    peak = peak_bytes(lambda: found.extend(read(path, SourceOptions(max_record_bytes=4 * MB))))
    assert isinstance(found[-1], Rejection)
    assert "far more than texts do" in found[-1].reason
    assert peak < 64 * MB


def test_a_zstd_window_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl.zst"
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path.write_bytes(stream.compress(LINES[0]) + stream.flush())
    (found,) = read(path)
    assert isinstance(found, Rejection)
    assert "128 MiB" in found.reason


def generated(lines: int) -> Iterator[bytes]:
    for n in range(lines):
        yield json.dumps({"id": f"d{n}", "text": f"{n} word " * 120}).encode() + b"\n"


@pytest.mark.parametrize("compression", COMPRESS)
def test_memory_does_not_grow_with_the_length_of_the_file(tmp_path: Path, compression: str) -> None:
    def peak(lines: int) -> int:
        path = tmp_path / f"{lines}.jsonl{compression}"
        path.write_bytes(COMPRESS[compression](b"".join(generated(lines))))
        return peak_bytes(lambda: sum(1 for _ in open_source(str(path), OPTIONS).records()))

    small, large = peak(1_000), peak(20_000)
    assert large < small * 1.5 + MB


# Run by itself: the JSON parser reserves many times what it touches, so only the resident size tells.
READ_AND_MEASURE = """
import re, sys
from pathlib import Path
from docmill.storage.readers import SourceOptions, open_source
def peak_kb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak_kb()
lengths = [len(item.text) for item in open_source(sys.argv[1], SourceOptions()).records()]
print(*lengths, peak_kb() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the resident size from /proc")
def test_a_document_of_fifty_megabytes_on_one_line_takes_a_few_times_its_size(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    with path.open("wb") as out:
        out.write(b'{"id": "big", "text": "')
        for _ in range(50):
            out.write(b"0123456789abcde " * (MB // 16))
        out.write(b'"}\n{"text": "next"}\n')
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", READ_AND_MEASURE, str(path)]
    output = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    first, second, peak_kb = map(int, output.split())
    assert (first, second) == (50 * MB, 4)
    assert peak_kb < 5 * 50 * 1024


@pytest.mark.parametrize("name", ["nothing.jsonl", "no\0thing", "nothing " * 1000])
def test_a_missing_source_says_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceMissing, match="no such file or folder") as raised:
        open_source(str(tmp_path / name), OPTIONS)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("name", ["c.json", "c.png", "c", "c.gz", "c.rar", ".jsonl", "c.jsonl.bz2"])
def test_an_unsupported_kind_is_refused_with_those_that_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(SourceUnsupported, match=r"these are: a \.jsonl, \.ndjson, \.csv, \.tsv, \.txt or \.md file"):
        open_source(str(tmp_path / name), OPTIONS)


def test_a_pipe_and_a_device_are_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(SourceUnreadable, match="is a pipe, not a file; pass it on standard input, as -"):
        open_source(str(tmp_path / "pipe.jsonl"), OPTIONS)
    with pytest.raises(SourceUnreadable, match="is a device"):
        open_source("/dev/zero", OPTIONS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_rights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("")
    (tmp_path / "c.jsonl").chmod(0)
    with pytest.raises(SourceUnreadable, match="Permission denied"):
        open_source(str(tmp_path / "c.jsonl"), OPTIONS)


def test_a_link_to_a_file_is_that_file_and_a_circle_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_bytes(LINES[0])
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    assert open_source(str(tmp_path / "link.jsonl"), OPTIONS).name == str(tmp_path / "real.jsonl")
    (tmp_path / "circle.jsonl").symlink_to("circle.jsonl")
    with pytest.raises(SourceUnreadable):
        open_source(str(tmp_path / "circle.jsonl"), OPTIONS)


def test_the_name_of_a_source_is_absolute_however_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.jsonl").write_bytes(LINES[0])
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    assert open_source("c.jsonl", OPTIONS).name == str(tmp_path / "c.jsonl")
    assert open_source("notes/../notes", OPTIONS).name == str(tmp_path / "notes")
    assert open_source("-", OPTIONS, stdin=io.BytesIO()).name == "-"


def test_standard_input_stays_open_and_counts_what_was_read() -> None:
    stream = io.BytesIO(b"".join(LINES[:10]))
    source = open_source("-", OPTIONS, stdin=stream)
    assert len(list(source.records())) == 10
    assert source.size_bytes() is None
    assert source.bytes_read == len(stream.getvalue())
    del source
    assert not stream.closed


def test_standard_input_is_read_from_a_pipe_as_it_comes() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stdin, os.fdopen(writing, "wb", buffering=0) as out:
        out.write(LINES[0] + LINES[1])
        records = open_source("-", OPTIONS, stdin=stdin).records()
        assert next(records).where == "-:1"
        assert next(records).where == "-:2"
        out.write(LINES[2])
        assert next(records).where == "-:3"


def test_every_error_pickles_with_its_message(tmp_path: Path) -> None:
    for error in SourceError.__subclasses__():
        again = pickle.loads(pickle.dumps(error("what is wrong")))
        assert type(again) is error
        assert str(again) == "what is wrong"
