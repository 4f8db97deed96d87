"""Files by their URL, from an HTTP server with and without faults, and from fsspec's file system in memory."""

from __future__ import annotations

import gzip
import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
import zstandard
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations
from pyarrow import parquet

from docmill.storage.readers import (
    Rejection,
    SourceError,
    SourceMissing,
    SourceUnsupported,
    open_source,
)
from docmill.storage.readers.errors import BrokenStream
from docmill.storage.readers.remote import READ, content
from tests.storage.readers.reading import OPTIONS, list_keys, list_texts, read, refused
from tests.storage.readers.site import Site

LINES = b"".join(json.dumps({"id": f"{n}", "text": f"text {n} " * 40}).encode() + b"\n" for n in range(3_000))


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
def test_files_of_records_are_read_from_a_server_plain_and_compressed(compress: Any, site: Site) -> None:
    suffix = {bytes: "", gzip.compress: ".gz"}.get(compress, ".zst")
    raw = compress(LINES)
    site.files[f"/a/c.jsonl{suffix}"] = raw
    source = open_source(f"{site.url}/a/c.jsonl{suffix}", OPTIONS)
    items = list(source.records())
    assert list_keys(items) == [str(n) for n in range(3_000)]
    assert items[16].where == f"c.jsonl{suffix}:17"
    assert source.name == f"{site.url}/a/c.jsonl{suffix}"
    assert source.size_bytes() == source.bytes_read == len(raw)
    assert list(source.records()) == items


@pytest.mark.slow
def test_parts_of_a_parquet_file_are_requested_or_else_the_file_is_copied(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 20_000
    texts = [f"{i} " * 100 for i in range(n)]
    parquet.write_table(pa.table({"text": texts, "n": list(range(n))}), tmp_path / "c.parquet", compression="none")
    site.files["/c.parquet"] = (tmp_path / "c.parquet").read_bytes()
    items = read(f"{site.url}/c.parquet")
    assert list_texts(items) == texts
    assert all(request.startswith("HEAD") or "bytes=" in request for request in site.requests)
    site.ranges = False
    assert read(f"{site.url}/c.parquet") == items
    site.sizes = False
    assert read(f"{site.url}/c.parquet") == items
    monkeypatch.setattr("docmill.storage.readers.remote.COPIED_BYTES", 2**20)
    for site.sizes in (True, False):
        message = refused(SourceUnsupported, f"{site.url}/c.parquet")
        assert "c.parquet: its server gives no parts of a file, and" in message


@pytest.mark.parametrize(
    "change",
    [
        {"version": ("ETag", '"2"')},
        {"version": ("Last-Modified", "Tue, 01 Dec 2026 00:00:02 GMT")},
        {"files": {"/c.parquet": b"2" * 6_000_000}},
        {"status": 416},
    ],
)
def test_parts_of_a_file_that_changes_while_it_is_read_are_not_mixed(site: Site, change: dict[str, Any]) -> None:
    site.version = (change.get("version", site.version)[0], "1")
    site.files["/c.parquet"] = b"1" * 5_000_000
    with content(f"{site.url}/c.parquet").open() as opened:
        assert opened.read(1) == b"1"
        vars(site).update(change)
        opened.seek(2_500_000)
        with pytest.raises(BrokenStream, match="was changed on its server while it was read"):
            opened.read(1)


def test_a_cut_connection_keeps_the_records_before_and_the_next_reading_has_all(site: Site) -> None:
    site.files["/c.jsonl"] = LINES
    source = open_source(f"{site.url}/c.jsonl", OPTIONS)
    site.cut = 0.5
    *before, last = source.records()
    assert isinstance(last, Rejection)
    assert last.fatal
    assert last.reason.startswith("the connection broke (")
    assert f"after c.jsonl:{len(before)}; nothing more was read" in last.reason
    assert 0 < len(before) < 2_000  # the records in transfer are lost
    assert "http" not in last.reason
    site.cut = 1.0
    assert list(source.records())[: len(before)] == before
    assert len(list(source.records())) == 3_000


def test_a_refusal_by_a_server_is_one_sentence(site: Site) -> None:
    assert "/no.jsonl: there is no such file" in refused(SourceMissing, f"{site.url}/no.jsonl")
    site.files["/c.jsonl"] = LINES
    site.status = 403
    assert "the server answers 403" in refused(SourceError, f"{site.url}/c.jsonl")
    assert "nothing answers at its server's address" in refused(SourceError, "http://127.0.0.1:1/c.jsonl")
    assert "no host of that name is known" in refused(SourceError, "http://nowhere.invalid/c.jsonl")
    assert "or it does not speak TLS" in refused(SourceError, f"{site.url.replace('http:', 'https:')}/c.jsonl")


def test_a_redirect_is_followed_to_http_only(site: Site, tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl").write_text('{"text": "secret"}\n')
    site.files["/c.jsonl"] = LINES
    site.leads_to = {
        "/a.jsonl": f"{site.url}/c.jsonl",
        "/b.jsonl": f"file://{tmp_path}/secret.jsonl",
        "/d.jsonl": "ftp://127.0.0.1/c.jsonl",
        "/e.jsonl": "/e.jsonl",
    }
    assert len(read(f"{site.url}/a.jsonl")) == 3_000
    for path in ("/b.jsonl", "/d.jsonl"):
        assert "redirects to a URL that is not HTTP" in refused(SourceError, site.url + path)
    refused(SourceError, f"{site.url}/e.jsonl")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("{}me:geheim@{}/c.jsonl", "http://me:***@{}/c.jsonl"),
        ("{}geheim@{}/c.jsonl", "http://***@{}/c.jsonl"),
        ("{}{}/c.jsonl?X-Amz-Date=1&X-Amz-Signature=geheim", "http://{}/c.jsonl?***"),
        ("{}{}/c.jsonl?token=geheim", "http://{}/c.jsonl?***"),
        ("{}{}/c.jsonl?part=2", "http://{}/c.jsonl?part=2"),
    ],
)
def test_no_secret_of_a_url_is_in_its_name_a_message_or_a_log(
    url: str, name: str, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    site.files["/c.jsonl"] = LINES
    host = site.url.removeprefix("http://")
    source = open_source(url.format("http://", host), OPTIONS)
    assert source.name == name.format(host)
    assert len(list(source.records())) == 3_000
    site.status = 500
    assert "geheim" not in refused(SourceError, url.format("http://", host))
    assert "geheim" not in caplog.text


def test_other_file_systems_are_read_and_urls_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/c.jsonl", LINES)
    assert len(read("memory://bucket/c.jsonl")) == 3_000
    assert "memory://bucket/no.jsonl: there is no such file" in refused(SourceMissing, "memory://bucket/no.jsonl")
    (tmp_path / "c d.jsonl").write_bytes(LINES)
    source = open_source(f"file://{tmp_path}/c%20d.jsonl", OPTIONS)
    assert source.name == f"{tmp_path}/c d.jsonl"
    for url in (f"local://{tmp_path}/c d.jsonl", "zip://c.jsonl::memory://a.zip", "reference://a::file:///x"):
        refused(SourceUnsupported, url)
    assert "such a URL is not read" in refused(SourceUnsupported, "nobody://bucket/c.jsonl")


def test_every_protocol_belongs_to_fsspec_and_none_reads_this_machine() -> None:
    assert {*known_implementations} >= READ
    for name in READ:
        with suppress(ImportError):  # its library is not installed
            assert not issubclass(fsspec.get_filesystem_class(name), LocalFileSystem)


def test_a_file_that_is_shorter_than_its_size_ends_the_reading() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/c.jsonl", LINES)
    file = content("memory://bucket/c.jsonl")
    memory.pipe("/bucket/c.jsonl", LINES[:-500])
    with file.open() as opened, pytest.raises(BrokenStream, match="ends before the size"):
        opened.read()
