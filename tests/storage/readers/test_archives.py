"""Zip and tar files and mailboxes: whole, truncated and hostile ones."""

from __future__ import annotations

import gzip
import io
import random
import re
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path

import pytest
import zstandard

from docmill.storage.readers import (
    FieldUnknown,
    Record,
    SourceError,
    SourceOptions,
    SourceUnsupported,
    open_source,
)
from docmill.storage.readers.archives import MOST_LISTED
from tests.storage.readers.reading import OPTIONS, list_keys, list_rejections, read, refused, zipped
from tests.storage.readers.test_sheets import Sheet, saved

MEMBERS = {
    "b/one.txt": b"the first",
    "two.MD": b"the second",
    "page.html": b"<html><body><p>the third</p></body></html>",
    "picture.png": b"\x89PNG",
    ".hidden/three.txt": b"hidden",
    "__MACOSX/b/one.txt": b"a resource fork",
    "a.txt": "four \N{SNOWMAN}".encode(),
}
READ = {"b/one.txt": "the first", "two.MD": "the second", "page.html": "the third", "a.txt": "four \N{SNOWMAN}"}


def tarred(members: dict[str, bytes]) -> bytes:
    """Return a tar archive of files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def texts(path: Path) -> dict[str, str]:
    """Return the texts of an archive by key."""
    return {item.key: item.text for item in read(path) if isinstance(item, Record)}


def rejections(path: Path, options: SourceOptions = OPTIONS) -> dict[str, str]:
    """Return the reasons of an archive's rejections by place."""
    return {item.where: item.reason for item in list_rejections(read(path, options))}


@pytest.mark.parametrize("name", ["a.zip", "a.TGZ"])
def test_the_documents_of_an_archive_are_read_in_its_order(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(zipped(MEMBERS) if name == "a.zip" else gzip.compress(tarred(MEMBERS)))
    source = open_source(str(path), OPTIONS)
    items = list(source.records())
    assert list_keys(items) == list(READ)
    assert texts(path) == READ
    assert list(source.records()) == items
    assert source.bytes_read == sum(len(MEMBERS[key]) for key in READ)
    assert len(list(open_source(str(path), SourceOptions(limit=2)).records())) == 2


def test_a_mailbox_is_one_document_for_each_message(tmp_path: Path) -> None:
    box = b""
    for number in range(3):
        message = EmailMessage()
        message["Subject"], message["From"] = f"letter {number}", "a@example.org"
        message.set_content(f"Dear {number},\nFrom here on it is {number}.\n")
        box += b"From a@example.org Thu Jan  1 00:00:00 2026\n"
        box += bytes(message).replace(b"\nFrom here", b"\n>From here") + b"\n"
    for name, raw in (("a.mbox", box), ("b.mbox.gz", gzip.compress(box))):
        (tmp_path / name).write_bytes(raw)
        messages = texts(tmp_path / name)
        assert list(messages) == ["1.eml", "2.eml", "3.eml"]
        assert "Subject: letter 1" in messages["2.eml"]
        assert "Dear 1,\nFrom here on it is 1." in messages["2.eml"]
    assert rejections(tmp_path / "a.mbox", SourceOptions(max_record_bytes=50)) == dict.fromkeys(
        messages, "longer than 50 bytes, the limit for one document"
    )


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_an_archive_without_documents_or_of_another_kind_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"certainly no archive" * 100)
    reasons = {" is damaged, or no archive of that kind", ": the gzip data is damaged"}
    assert refused(SourceError, path).removeprefix(name) in reasons
    raw = zipped({"a.png": b""}) if name == "a.zip" else tarred({"a.png": b""})
    path.write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    assert re.search(r"no \.txt, \.md, .* members in", refused(SourceUnsupported, path))


BOOK: Sheet = [["Report of 2026"], ["id", "text", "n"], [1, "One.", 3], [None, "Two.", 4]]
OWN_RESULT = b'{"id": "1", "task": "embed", "text": "x", "tokens_in": 1, "tokens_out": 0, "flags": []}\n'


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """Members of an archive with records."""
    return {
        "b/book.xlsx": saved(tmp_path / "book.xlsx", Data=BOOK, More=[["text"], ["x"]]).read_bytes(),
        "c.csv": b"id,text\n7,seven\n,eight\n",
        "d.jsonl.gz": gzip.compress(b'{"id": "a", "text": "nine"}\nnonsense\n'),
        "e.txt": b"ten",
        "f.csv": b"name,size\nx,1\n",
        "g.jsonl": OWN_RESULT,
        "h.zip": zipped({"i.txt": b"not read"}),
    }


def test_workbooks_and_other_files_of_records_in_an_archive_are_read_as_in_a_folder(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    name = "a.tar.gz"
    path = tmp_path / name
    path.write_bytes(gzip.compress(tarred(files)))
    (tmp_path / "book.xlsx").unlink()
    expected = [
        Record("b/book.xlsx[Data]#1", "One.", {"n": 3}, (), "b/book.xlsx[Data]:3"),
        Record("b/book.xlsx[Data]:4", "Two.", {"n": 4}, (), "b/book.xlsx[Data]:4"),
        Record("c.csv#7", "seven", {}, (), "c.csv:2"),
        Record("c.csv:3", "eight", {}, (), "c.csv:3"),
        Record("d.jsonl.gz#a", "nine", {}, (), "d.jsonl.gz:1"),
        Record("e.txt", "ten", {}, (), "e.txt"),
    ]
    options = SourceOptions(sheet="Data", header_row=2)
    source = open_source(str(path), options)
    items = list(source.records())
    assert [item for item in items if isinstance(item, Record)] == expected
    [rejection] = list_rejections(items)
    assert (rejection.where, rejection.below) == ("d.jsonl.gz:2", "d.jsonl.gz")
    assert source.ignored == {".csv": 1, ".jsonl": 1, ".zip": 1}
    assert source.reasons == {
        ".csv": 'f.csv: no record has a field "text"; it has "name", "size": name one with --text-field',
        ".jsonl": "g.jsonl: it holds results that docmill wrote; to read them name the file",
    }
    assert list(source.records()) == items
    assert [item.where for item in open_source(str(path), replace(options, limit=2)).records()] == [
        "b/book.xlsx[Data]:3",
        "b/book.xlsx[Data]:4",
    ]
    folder = open_source(str(tmp_path), options)
    keys = list_keys(folder.records())
    assert keys == [f"{name}/{item.key}" for item in expected]
    assert folder.reasons == {
        ".csv": f'{name}/f.csv: no record has a field "text"; it has "name", "size": name one with --text-field',
        ".jsonl": f"{name}/g.jsonl: it holds results that docmill wrote; to read them name the file",
    }


def test_an_archive_without_readable_records_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({"b.csv": b"name\nx\n"}))
    assert 'b.csv: no record has a field "text"' in refused(FieldUnknown, path)
    path.write_bytes(zipped({"book.xlsx": files["b/book.xlsx"]}))
    assert "book.xlsx has several sheets with rows: name one with --sheet" in refused(SourceUnsupported, path)
    path.write_bytes(zipped({"bad.xlsx": b"PK\3\4", "a.txt": b"one"}))
    assert rejections(path) == {"bad.xlsx": "bad.xlsx is damaged, or no workbook of Excel or OpenDocument"}
    assert texts(path) == {"a.txt": "one"}
    path.write_bytes(zipped({"b.csv": b"text\n" + b"x" * 100, "a.txt": b"one"}))
    reason = rejections(path, SourceOptions(max_record_bytes=50))["b.csv"]
    assert reason == "larger than 50 bytes, the limit for a file in an archive: unpack the archive into a folder"


@pytest.mark.parametrize(
    ("header", "cut"), [(b"?" * 512, None), (b"", 2_048), (b"", 2_300)], ids=["damaged", "cut at", "cut in"]
)
def test_a_tar_whose_headers_end_too_early_is_reported(header: bytes, cut: int | None, tmp_path: Path) -> None:
    raw = tarred({f"{name}.txt": b"text" for name in "abcd"})  # a header and a block each
    place = 2_048 if cut is not None else 1_024
    raw = raw[:place] + header + raw[place + len(header) : cut]
    path = tmp_path / "a.tar"
    path.write_bytes(raw)
    assert [*texts(path)] == (["a.txt"] if cut is None else ["a.txt", "b.txt"])
    assert [reason for reason in rejections(path).values() if "it is damaged, or ends too early" in reason]


def test_a_damaged_member_of_a_zip_costs_only_itself(tmp_path: Path) -> None:
    raw = bytearray(zipped({"a.txt": b"one", "b.txt": b"two" * 100, "c.txt": b"three"}, zipfile.ZIP_STORED))
    raw[raw.index(b"twotwo") + 9] ^= 1
    path = tmp_path / "a.zip"
    path.write_bytes(raw)
    assert list(texts(path)) == ["a.txt", "c.txt"]
    assert rejections(path) == {"b.txt": "it is damaged"}
    path.write_bytes(raw[:-30])
    assert "damaged, or no archive" in refused(SourceError, path)
    raw[raw.index(b"PK\1\2") + 6] = 99  # the version of zip that a member needs
    path.write_bytes(raw)
    assert "damaged, or no archive" in refused(SourceError, path)


def test_a_zip_with_damaged_names_or_offsets_is_rejected(tmp_path: Path) -> None:
    name = "é.txt".encode()
    whole = zipped({"a.txt": b"one", "é.txt": b"two", "b.txt": b"three"}, zipfile.ZIP_STORED)
    path = tmp_path / "a.zip"
    path.write_bytes(whole.replace(name, b"\xff\xfe.txt"))
    assert "damaged, or no archive" in refused(SourceError, path)
    path.write_bytes(whole.replace(name, b"\xff\xfe.txt", 1))  # in its own header alone
    assert list(texts(path)) == ["a.txt", "b.txt"]
    assert rejections(path) == {"é.txt": "it is damaged"}
    path.write_bytes(zipped({"": b"nameless", "a.txt": b"one"}))
    assert texts(path) == {"a.txt": "one"}
    file = io.BytesIO(whole)
    with zipfile.ZipFile(file, "a") as archive:
        archive.infolist()[1].header_offset = 2**63 + 5
        archive.writestr("d.txt", "four")
    path.write_bytes(file.getvalue())
    assert list(texts(path)) == ["a.txt", "b.txt", "d.txt"]
    assert rejections(path) == {"é.txt": "it is damaged"}


@pytest.mark.parametrize("name", ["../a.txt", "/etc/a.txt", "b/../../a.txt"])
def test_a_name_that_leads_out_of_the_archive_is_rejected(name: str, tmp_path: Path) -> None:
    for path, raw in ((tmp_path / "a.zip", zipped({name: b"x"})), (tmp_path / "a.tar", tarred({name: b"x"}))):
        path.write_bytes(raw)
        assert rejections(path) == {name: "its name leads out of the archive"}
        assert texts(path) == {}


def test_links_and_devices_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, kind in (("a.txt", tarfile.SYMTYPE), ("b.txt", tarfile.LNKTYPE), ("c.txt", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    path = tmp_path / "a.tar"
    path.write_bytes(file.getvalue())
    assert rejections(path) == dict.fromkeys(["a.txt", "b.txt"], "a link within an archive is not followed")
    assert texts(path) == {}


def test_passwords_and_rare_compressions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({"a.txt": b"x" * 99}, zipfile.ZIP_LZMA))
    assert rejections(path) == {"a.txt": "it is compressed in a way that is not read; deflate is"}
    raw = bytearray(zipped({"a.txt": b"x"}))
    raw[raw.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(raw)
    assert rejections(path) == {"a.txt": "it is protected by a password"}


PEAK = """
import resource, sys
from docmill.storage.readers import Rejection, SourceError, SourceOptions, open_source
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    reasons = [item.reason for item in open_source(sys.argv[1], SourceOptions(max_record_bytes=1_000_000)).records()]
except SourceError as error:
    reasons = [str(error)]
print(len(reasons), reasons[0][:200], (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, sep="|")
"""


def peak(path: Path | str) -> tuple[str, int]:
    """Return the only rejection of an archive, and the peak memory of reading it in MB."""
    done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    number, reason, mb = done.stdout.strip().split("|")
    assert number == "1"
    return reason, int(mb)


def test_bombs_are_refused_in_bounded_memory(tmp_path: Path) -> None:
    big = b"\0" * 300_000_000
    (tmp_path / "a.zip").write_bytes(zipped({"a.txt": big}))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tarred({"a.txt": big}), 1))
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(big)
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(header.tobuf(tarfile.USTAR_FORMAT) + big, 1))
    del big
    for name, reason in (("a.zip", "longer than"), ("a.tar.gz", "longer than"), ("b.tar.gz", "damaged")):
        actual, mb = peak(tmp_path / name)
        assert reason in actual
        assert mb < 60, name


def test_a_zip_with_a_million_members_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    central = b"".join(map(_entry, range(1_000_000)))
    assert len(central) > MOST_LISTED
    end = b"PK\5\6" + bytes(8) + len(central).to_bytes(4, "little") + bytes(6)
    path.write_bytes(central + end)
    reason, mb = peak(path)
    assert "lists more members than are read" in reason
    assert "unpack it into a folder" in reason
    assert mb < 60


def _entry(number: int) -> bytes:
    """Return a member's entry in the list of a zip file."""
    name = f"{number}.txt".encode()
    return b"PK\1\2" + bytes(24) + len(name).to_bytes(2, "little") + bytes(16) + name


def header(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return the header of a tar member that claims a size."""
    member = tarfile.TarInfo("a.txt")
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("size", [2**60, 2**30, 600])
def test_a_member_that_claims_more_bytes_than_its_tar_has_ends_the_reading_at_once(size: int, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tarred({"b.txt": b"before"})[:1024] + header(size) + b"x" * 512)
    assert texts(path) == {"b.txt": "before"}
    (reason,) = rejections(path).values()
    assert reason == f"a.txt claims {size:,} bytes, and the archive has 2,048, after b.txt; nothing more was read"
    for packed in (tmp_path / "a.tar.gz", tmp_path / "a.tar.zst"):
        pack = gzip.compress if packed.suffix == ".gz" else zstandard.compress
        packed.write_bytes(pack(path.read_bytes()))
        assert texts(packed) == {"b.txt": "before"}
        assert "it is damaged, or ends too early" in [*rejections(packed).values()][-1]


@pytest.mark.parametrize(
    "raw",
    [
        header(-1024),
        header(1, tarfile.XHDTYPE) * 5000,
        header(0, tarfile.GNUTYPE_SPARSE)[:482] + b"\1" + header(0)[483:],
    ],
)
def test_a_tar_with_hostile_headers_is_refused(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(raw)
    refused(SourceError, path)


def test_a_member_of_a_zip_that_expands_too_far_is_rejected_and_many_end_the_reading(tmp_path: Path) -> None:
    bomb, path = b"\0" * 100 * 2**20, tmp_path / "a.zip"
    path.write_bytes(zipped({"a.txt": b"first", "b.txt": bomb, "c.txt": b"third", "d.png": random.randbytes(2**20)}))
    assert texts(path) == {"a.txt": "first", "c.txt": "third"}
    assert "far more than texts do (if it is no attack: unpack the archive first)" in rejections(path)["b.txt"]
    path.write_bytes(zipped({"a.txt": b"first", "b.txt": bomb, "c.txt": b"third"}))
    assert texts(path) == {"a.txt": "first"}
    assert "far more than texts do" in rejections(path)["a.zip"]


@pytest.mark.parametrize("name", ["b.tar.gz", "b.zip"])
def test_an_archive_that_expands_too_far_at_its_beginning_is_not_called_damaged(name: str, tmp_path: Path) -> None:
    bomb, path = {"a.txt": b"\0" * 100 * 2**20}, tmp_path / name
    path.write_bytes(zipped(bomb) if name == "b.zip" else gzip.compress(tarred(bomb)))
    message = refused(SourceError, path)
    assert re.search(rf"{name}: its first [\d,]+ bytes expand to more than", message)
    assert "damaged" not in message


def test_compressed_members_may_expand_as_far_as_the_whole_archive_may(tmp_path: Path) -> None:
    inner = gzip.compress(b'{"text": "x"}\n' * 90_000)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(tarred({f"{n}.jsonl.gz": inner for n in range(3)})))
    reasons = rejections(path).values()
    assert all("unpack the archive first" in reason for reason in reasons)
    assert len(reasons) == 2
    assert 90_000 <= len(texts(path)) < 180_000
