"""Damage in a file of any kind leads to rejections or a refusal, and to nothing worse."""

from __future__ import annotations

import gzip
import random
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard

from docmill.storage.readers import Record, Rejection, SourceError, SourceOptions, open_source
from tests.storage.readers import test_arrow, test_parquet, test_sheets
from tests.storage.readers.reading import zipped
from tests.storage.readers.test_archives import tarred
from tests.storage.readers.test_documents import REAL, mail

pytestmark = pytest.mark.long

ROWS = {"id": [f"k{n}" for n in range(300)], "text": [f"Text {n} of a file." for n in range(300)]}
LINES = b"".join(b'{"id": "k%d", "text": "Text %d of a file."}\n' % (n, n) for n in range(300))
CSV = b"id,text\n" + b"".join(b"k%d,Text %d of a file.\n" % (n, n) for n in range(300))
TEXTS = {f"é{n}.txt": f"Text {n} of a file.".encode() for n in range(300)}


def _database(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE book (id, text)")
        database.executemany("INSERT INTO book VALUES (?, ?)", zip(*ROWS.values(), strict=True))
    database.close()


WRITE: dict[str, Callable[[Path], object]] = {
    "c.parquet": lambda path: test_parquet.saved(path, ROWS, row_group_size=50),
    "c.arrow": lambda path: test_arrow.saved(path, pa.table(ROWS), 50),
    "c.xlsx": lambda path: test_sheets.saved(path, Data=[[*ROWS], *map(list, zip(*ROWS.values(), strict=True))]),
    "c.sqlite": _database,
}
RAW = {
    "c.jsonl": LINES,
    "c.jsonl.gz": gzip.compress(LINES),
    "c.jsonl.zst": zstandard.ZstdCompressor(write_checksum=True).compress(LINES),
    "c.csv": CSV,
    "c.zip": zipped(TEXTS),
    "c.tar": tarred(TEXTS),
    "c.tar.gz": gzip.compress(tarred(TEXTS)),
    "c.mbox": b"".join(b"From a\n" + mail() + b"\n" for _ in range(12)),
    **REAL,
}
ALL = [*WRITE, *RAW]


def read(path: Path) -> list[Record | Rejection] | None:
    """Read a file. Return None if it is refused as a whole."""
    url = f"sqlite:///{path}?SELECT * FROM book ORDER BY rowid" if path.suffix == ".sqlite" else str(path)
    with suppress(SourceError):
        return list(open_source(url, SourceOptions(max_record_bytes=10_000_000)).records())
    return None


def write(path: Path) -> bytes:
    """Write a whole file of the kind that its name says, and return its bytes."""
    if path.name in RAW:
        path.write_bytes(RAW[path.name])
    else:
        WRITE[path.name](path)
    return path.read_bytes()


@pytest.mark.parametrize("name", ALL)
def test_damage_anywhere_is_a_rejection_or_a_refusal(name: str, tmp_path: Path) -> None:
    whole = write(tmp_path / name)
    dice = random.Random(name)
    for _ in range(4):
        raw = bytearray(whole)
        for _ in range(3):
            place = dice.randrange(len(raw))
            raw[place : place + 4] = dice.randbytes(4)
        (tmp_path / name).write_bytes(raw)
        assert len(read(tmp_path / name) or []) <= 4 * len(TEXTS)
