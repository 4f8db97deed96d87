"""Read descriptions of packages for training and for scores, without near-duplicates."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# Packages with the same source, such as a library, its headers and its documentation, begin with the same words.
_BEGINNING_CHARS = 60
_SALT = "docmill"


@dataclass(frozen=True)
class Description:
    """A package's description."""

    id: str
    text: str
    section: str
    split: str


def read_descriptions(path: Path) -> list[Description]:
    """Return the descriptions in a file of JSON lines, which may be compressed with gzip."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = [json.loads(line) for line in content.decode().split("\n") if line]
    return [Description(row["id"], row["text"], row["section"], row["split"]) for row in rows]


def select_distinct(descriptions: Iterable[Description], excluded: Iterable[Description] = ()) -> list[Description]:
    """Return the descriptions that begin unlike all earlier ones and all in ``excluded``, in a shuffled order."""
    beginnings = {_normalize_beginning(description) for description in excluded}
    selected = []
    for description in sorted(descriptions, key=lambda description: hash_to_fraction(description.id)):
        if (beginning := _normalize_beginning(description)) not in beginnings:
            beginnings.add(beginning)
            selected.append(description)
    return selected


def hash_to_fraction(name: str) -> float:
    """Return a number from 0 to 1 that looks random but is always the same for a name."""
    return int.from_bytes(hashlib.sha256(f"{_SALT} {name}".encode()).digest()[:4], "big") / 2**32


def _normalize_beginning(description: Description) -> str:
    return re.sub(r"\W+", " ", description.text.lower())[:_BEGINNING_CHARS]
