"""Descriptions of packages for training and for scores, without near-duplicates."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# Texts that begin alike are of packages with one source, such as a library, its headers and its documentation.
_SAME_CHARS = 60
_SALT = "docmill"


@dataclass(frozen=True)
class Description:
    """A package's description."""

    id: str
    text: str
    section: str
    split: str


def descriptions(path: Path) -> list[Description]:
    """Read the descriptions of a file of JSON lines, which may be compressed."""
    whole = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = [json.loads(line) for line in whole.decode().split("\n") if line]
    return [Description(row["id"], row["text"], row["section"], row["split"]) for row in rows]


def distinct(rows: Iterable[Description], besides: Iterable[Description] = ()) -> list[Description]:
    """Return the descriptions that begin like no earlier one and like none of ``besides``, in a mixed order."""
    seen = {_beginning(row) for row in besides}
    found = []
    for row in sorted(rows, key=lambda one: fraction(one.id)):
        if (beginning := _beginning(row)) not in seen:
            seen.add(beginning)
            found.append(row)
    return found


def fraction(name: str) -> float:
    """Return a number from 0 to 1 that stands for a name: the same everywhere, and as if it were random."""
    return int.from_bytes(hashlib.sha256(f"{_SALT} {name}".encode()).digest()[:4], "big") / 2**32


def _beginning(row: Description) -> str:
    return re.sub(r"\W+", " ", row.text.lower())[:_SAME_CHARS]
