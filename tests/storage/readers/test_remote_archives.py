"""Zip and tar files and mailboxes by their URL, from servers with and without ranges."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import fsspec
import pytest
import zstandard

from docmill.storage.readers import Record, Rejection, SourceError, open_source
from docmill.storage.readers.remote import BLOCK_BYTES
from tests.storage.readers.reading import OPTIONS, list_keys, list_texts, read, zipped
from tests.storage.readers.site import Site
from tests.storage.readers.test_archives import MEMBERS, READ, peak, tarred
from tests.storage.readers.test_documents import mail

BOX = b"".join(b"From a@example.org Thu Jan  1 00:00:00 2026\n" + mail() + b"\n" for _ in range(3))
KINDS = {
    "a.zip": zipped(MEMBERS),
    "a.tar": tarred(MEMBERS),
    "a.tar.gz": gzip.compress(tarred(MEMBERS)),
    "a.tar.zst": zstandard.ZstdCompressor().compress(tarred(MEMBERS)),
    "a.mbox": BOX,
    "a.mbox.gz": gzip.compress(BOX),
}


def noise(n: int) -> bytes:
    """Return text that cannot be compressed much."""
    return random.Random(n).randbytes(n // 2).hex().encode()


@pytest.mark.parametrize("ranges", [True, pytest.param(False, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", KINDS)
def test_archives_and_mailboxes_are_read_from_a_server_as_from_a_disk(
    name: str, ranges: bool, site: Site, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(KINDS[name])
    site.files[f"/sub/{name}"], site.ranges = KINDS[name], ranges
    source = open_source(f"{site.url}/sub/{name}?part=1", OPTIONS)
    assert source.name == f"{site.url}/sub/{name}?part=1"
    items = list(source.records())
    assert items == read(str(tmp_path / name))
    assert list_keys(items) == (["1.eml", "2.eml", "3.eml"] if "mbox" in name else list(READ))
    assert list(source.records()) == items
    fsspec.filesystem("memory").pipe(f"/bucket/{name}", KINDS[name])
    assert read(f"memory://bucket/{name}") == items


def test_only_the_needed_parts_of_a_large_zip_file_are_requested(site: Site) -> None:
    site.files["/a.zip"] = zipped({"a.txt": b"first", "b.png": noise(12 * BLOCK_BYTES), "c.txt": b"last"})
    assert list_texts(read(f"{site.url}/a.zip")) == ["first", "last"]
    requests = [request for request in site.requests if request.startswith("GET")]
    assert all("bytes=" in request for request in requests)
    assert len(set(requests)) <= 3


@pytest.mark.parametrize("ranges", [True, False])
def test_a_zip_file_whose_transfer_is_cut_is_reported(ranges: bool, site: Site) -> None:
    site.files["/a.zip"] = zipped({f"{n}.txt": noise(BLOCK_BYTES) for n in range(4)})
    site.ranges = ranges
    source = open_source(f"{site.url}/a.zip", OPTIONS)
    records = source.records()
    if ranges:
        assert isinstance(next(records), Record)
        site.cut = 0.5
        *_, last = records
        assert isinstance(last, Rejection)
        assert last.fatal
        assert "after 0.txt; nothing more was read" in last.reason
        assert last.reason.startswith(("the connection broke (", "the file ends before the size"))
    site.cut = 0.5
    with pytest.raises(SourceError, match=r"a\.zip: the (connection broke|file ends before)"):
        read(f"{site.url}/a.zip")


def test_a_server_that_sends_more_than_requested_fills_no_memory(site: Site) -> None:
    site.files["/a.zip"] = zipped(MEMBERS) + bytes(500_000_000)
    site.endless = True
    reason, mb = peak(f"{site.url}/a.zip")
    assert "damaged, or no archive" in reason
    assert mb < 110
