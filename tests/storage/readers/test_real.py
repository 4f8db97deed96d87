"""Each reader on a real file of its kind: the repository's documents, written by the tools that people have; then on
the same file cut short, and on the same file with damage in it."""

from __future__ import annotations

import csv
import email.message
import io
import json
import mailbox
import random
import shutil
import sqlite3
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import datasets
import docx
import pyarrow as pa
import pytest
import zstandard
from fpdf import FPDF
from pyarrow import feather, parquet

from docmill.storage.readers import Record, Rejection, SourceError, SourceOptions, open_source

EXAMPLES = Path(__file__).parents[3] / "examples" / "descriptions.jsonl"
LINES = [json.loads(line) for line in EXAMPLES.read_text().splitlines()]
# As many as a format that is one document for each file, or one process, is tried on.
SOME = [line for line in LINES if line["text"].isascii()][:12]
Write = Callable[[Path], None]


def jsonl(path: Path) -> None:
    path.write_bytes(EXAMPLES.read_bytes())


def gzipped(path: Path) -> None:
    jsonl(path.with_suffix(""))
    subprocess.run(["gzip", path.with_suffix("")], check=True)


def zstd(path: Path) -> None:
    with path.open("wb") as out, EXAMPLES.open("rb") as file:
        zstandard.ZstdCompressor().copy_stream(file, out)


def delimited(path: Path, delimiter: str = ",") -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(LINES[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(LINES)


def tsv(path: Path) -> None:
    delimited(path, "\t")


def columns(path: Path) -> None:
    parquet.write_table(pa.Table.from_pylist(LINES), path, row_group_size=50)


def arrow(path: Path) -> None:
    feather.write_feather(pa.Table.from_pylist(LINES), str(path), chunksize=50)


def database(path: Path) -> None:
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE book (id, text, synopsis, section)")
        made.executemany("INSERT INTO book VALUES (:id, :text, :synopsis, :section)", LINES)
    made.close()


def plain(path: Path) -> None:
    path.write_text(SOME[0]["text"])


def html(path: Path) -> None:
    page = ElementTree.Element("html")
    body = ElementTree.SubElement(page, "body")
    for line in SOME:
        for paragraph in line["text"].split("\n\n"):
            ElementTree.SubElement(body, "p").text = paragraph
    path.write_bytes(ElementTree.tostring(page, method="html"))


def pdf(path: Path) -> None:
    made = FPDF()
    made.set_font("Helvetica", size=12)
    for line in SOME:
        made.add_page()
        made.multi_cell(0, 6, line["text"])
    made.output(str(path))


def word(path: Path) -> None:
    made = docx.Document()
    for line in SOME:
        for paragraph in line["text"].split("\n\n"):
            made.add_paragraph(paragraph)
    made.save(str(path))


def box(path: Path) -> None:
    made = mailbox.mbox(path)
    for line in SOME:
        letter = email.message.EmailMessage()
        letter["Subject"], letter["From"] = line["synopsis"], "a@example.org"
        letter.set_content(line["text"])
        made.add(letter)
    made.close()


def folder(path: Path) -> Path:
    path.mkdir()
    for line in SOME:
        (path / f"{line['id']}.md").write_text(line["text"])
    return path


def zipped(path: Path) -> None:
    shutil.make_archive(str(path.with_suffix("")), "zip", folder(path.parent / "files"))


def tarred(path: Path) -> None:
    how = ["--use-compress-program=gzip"] if path.suffix == ".gz" else []
    subprocess.run(["tar", "cf", path, *how, "-C", folder(path.parent / "files"), "."], check=True)


def saved(path: Path) -> None:
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(LINES).save_to_disk(path.parent)


RECORDS: dict[str, Write] = {
    "c.jsonl": jsonl,
    "c.jsonl.gz": gzipped,
    "c.jsonl.zst": zstd,
    "c.csv": delimited,
    "c.tsv": tsv,
    "c.parquet": columns,
    "c.feather": arrow,
    "c.sqlite": database,
    "data-00000-of-00001.arrow": saved,
}
ONE: dict[str, Write] = {"c.txt": plain, "c.md": plain, "c.html": html, "c.pdf": pdf, "c.docx": word}
MANY: dict[str, Write] = {"c.mbox": box, "c.zip": zipped, "c.tar": tarred, "c.tar.gz": tarred}
ALL = RECORDS | ONE | MANY
# Of these nobody can tell that they are cut, since nothing stands at their end.
ENDLESS = {"c.txt", "c.md", "c.html", "c.mbox", "c.csv", "c.tsv"}


def url(path: Path) -> str:
    if path.suffix == ".sqlite":
        return f"sqlite:///{path}?SELECT * FROM book ORDER BY rowid"
    return f"datasets://{path.parent}" if path.suffix == ".arrow" else str(path)


def read(path: Path) -> list[Record | Rejection]:
    """Within seconds and little memory, or this machine would show it. Raises SourceError and nothing else."""
    return list(open_source(url(path), SourceOptions(max_record_bytes=10_000_000)).records())


def attempted(path: Path) -> list[Record | Rejection] | None:
    """None where the file is refused as a whole."""
    with suppress(SourceError):
        return read(path)
    return None


def words(text: str) -> list[str]:
    return text.replace("*", " ").replace("\\", "").split()


def texts(items: list[Record | Rejection]) -> list[str]:
    return [item.text for item in items if isinstance(item, Record)]


@pytest.mark.parametrize("name", RECORDS)
def test_records_are_read_as_they_were_written(name: str, tmp_path: Path) -> None:
    RECORDS[name](tmp_path / name)
    found: list[Any] = read(tmp_path / name)
    assert [(item.key, item.text) for item in found] == [(line["id"], line["text"]) for line in LINES]
    assert all(item.meta["synopsis"] == line["synopsis"] for item, line in zip(found, LINES, strict=True))


@pytest.mark.parametrize("name", ONE)
def test_a_document_is_read_with_all_its_words(name: str, tmp_path: Path) -> None:
    ONE[name](tmp_path / name)
    [text] = texts(read(tmp_path / name))
    for line in SOME[:1] if name in {"c.txt", "c.md"} else SOME:
        assert set(words(line["text"])) - set(words(text)) == set(), line["id"]


@pytest.mark.parametrize("name", MANY)
def test_the_documents_of_a_collection_are_read(name: str, tmp_path: Path) -> None:
    MANY[name](tmp_path / name)
    found = texts(read(tmp_path / name))
    meant = [line["text"] for line in SOME]
    if name == "c.mbox":
        assert all(set(words(text)) <= set(words(letter)) for text, letter in zip(meant, found, strict=True))
    else:
        assert sorted(found) == sorted(meant)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("share", [0.0, 0.97])
def test_a_file_that_is_cut_gives_what_came_before_or_is_refused_and_says_so(
    share: float, name: str, tmp_path: Path
) -> None:
    ALL[name](tmp_path / name)
    whole = texts(read(tmp_path / name))
    raw = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(raw[: int(len(raw) * share)])
    found = attempted(tmp_path / name)
    if found is None:
        return
    kept = texts(found)
    assert len(kept) < len(whole) or name in ENDLESS or kept == whole
    assert set(kept[:-1]) <= set(whole)
    if share and kept and kept[-1] not in whole:
        assert name in ENDLESS
    if share and name not in ENDLESS and kept != whole:
        assert any(isinstance(item, Rejection) for item in found)


@pytest.mark.parametrize("name", ALL)
def test_damage_anywhere_is_a_rejection_or_a_refusal_and_nothing_worse(name: str, tmp_path: Path) -> None:
    ALL[name](tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    dice = random.Random(name)
    for _ in range(4):
        raw = bytearray(whole)
        for _ in range(3):
            place = dice.randrange(len(raw))
            raw[place : place + 4] = dice.randbytes(4)
        (tmp_path / name).write_bytes(raw)
        assert len(attempted(tmp_path / name) or []) <= 4 * len(LINES)


def test_a_file_of_another_kind_by_its_name_is_refused_or_rejected(tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(100_000)
    picture = b"\x89PNG\r\n\x1a\n" + noise
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("a.bin", noise)
    other = io.BytesIO()
    with tarfile.open(fileobj=other, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a.bin"))
    for name in ALL:
        if name.startswith("data-"):
            continue
        for n, raw in enumerate((noise, picture, archive.getvalue(), other.getvalue(), b"\0" * 10_000)):
            (tmp_path / name).write_bytes(raw)
            found = texts(attempted(tmp_path / name) or [])
            assert found == [] or name in {"c.txt", "c.md", "c.html"}, (name, n)
