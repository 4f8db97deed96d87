"""Zip and tar files and mailboxes by their URL, from servers that give parts of a file and from those that do not."""

from __future__ import annotations

import gzip
import random
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import zstandard

from docmill.storage.readers import Record, Rejection, SourceError, open_source
from docmill.storage.readers.remote import BLOCK_BYTES
from tests.storage.readers.reading import OPTIONS, read, zipped
from tests.storage.readers.site import Site
from tests.storage.readers.test_archives import MEMBERS, PEAK, READ, tarred
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
    """Text that no compression makes small."""
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
    assert [item.key for item in items if isinstance(item, Record)] == (
        ["1.eml", "2.eml", "3.eml"] if "mbox" in name else list(READ)
    )
    assert list(source.records()) == items
    fsspec.filesystem("memory").pipe(f"/bucket/{name}", KINDS[name])
    assert read(f"memory://bucket/{name}") == items


def test_of_a_large_zip_file_only_what_is_wanted_is_asked_for(site: Site) -> None:
    site.files["/a.zip"] = zipped({"a.txt": b"first", "b.png": noise(12 * BLOCK_BYTES), "c.txt": b"last"})
    assert [item.text for item in read(f"{site.url}/a.zip") if isinstance(item, Record)] == ["first", "last"]
    requests = [what for what in site.requests if what.startswith("GET")]
    assert all("bytes=" in what for what in requests)
    assert len(set(requests)) <= 3


@pytest.mark.parametrize("ranges", [True, False])
def test_a_zip_file_whose_transfer_is_cut_says_so(ranges: bool, site: Site) -> None:
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


def test_a_server_that_sends_more_than_was_asked_for_fills_no_memory(site: Site) -> None:
    site.files["/a.zip"] = zipped(MEMBERS) + bytes(500_000_000)
    site.endless = True
    done = subprocess.run(
        [sys.executable, "-c", PEAK, f"{site.url}/a.zip"], capture_output=True, text=True, check=True
    )
    _, reason, mb = done.stdout.strip().split("|")
    assert "damaged, or no archive" in reason
    assert int(mb) < 110
