"""The comparison of a chunk's records with the stored versions of their documents. It reads and writes nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from docmill.storage.ingest.chunks import Versions
from docmill.storage.json_values import Json


class StoredVersion(NamedTuple):
    """A document's version in the store. The reading `ingest_id` brought it from place `seq` of its source."""

    id: int
    key: str
    content_id: int
    meta: Json
    flags: Sequence[str]
    seq: int
    gone: bool
    ingest_id: int


@dataclass(frozen=True)
class Changes:
    """Changes that a chunk makes to its corpus.

    `incoming` become current versions. `kept` has the ids of the current versions that stay, by their records'
    places in the chunk. `contenders` has the ids of superseded versions that the reading brings again, by their keys.

    Each incoming and each unchanged record is counted once as new, changed, unchanged or repeated. A repeated record
    has the key of another record of its source; `repeated` has their places in the chunk. `n_again` of the unchanged
    records were stored by this reading when it was cut off.
    """

    incoming: Versions
    kept: Mapping[int, int]
    contenders: Mapping[str, int]
    n_new: int
    n_changed: int
    n_unchanged: int
    repeated: Sequence[int]
    n_again: int

    @property
    def n_repeated(self) -> int:
        return len(self.repeated)


def compare(chunk: Versions, current: Mapping[str, StoredVersion]) -> tuple[list[int], list[int]]:
    """Return the places of the records that equal their current versions, and of those that differ from them."""
    same: list[int] = []
    differing: list[int] = []
    for n, key in enumerate(chunk.keys if current else ()):
        if (stored := current.get(key)) is not None:
            is_same = not stored.gone and chunk.equals(n, stored)
            (same if is_same else differing).append(n)
    return same, differing


def diff_chunk(
    chunk: Versions,
    current: Mapping[str, StoredVersion],
    losers: Mapping[str, Sequence[StoredVersion]],
    same: Collection[int],
    ingest_id: int,
) -> Changes:
    """Return the changes that a chunk makes.

    `current` has the current versions by their keys, and `losers` the superseded versions of the same reading.
    `same` is what `compare` found, and `ingest_id` the reading of the chunk.
    """
    keys, unchanged = chunk.keys, {*same}
    contending = {
        n: loser.id
        for n, key in enumerate(keys if losers else ())
        if n not in unchanged
        for loser in losers.get(key, ())
        if chunk.equals(n, loser)
    }
    kept = {n: current[keys[n]].id for n in (*same, *contending)}
    incoming = [n for n in range(len(chunk)) if n not in kept]
    replacing = {n for n in incoming if keys[n] in current} if current else set[int]()
    mine = {n for n in unchanged | replacing if current[keys[n]].ingest_id == ingest_id}
    repeated = {n for n in mine if current[keys[n]].seq != chunk.seqs[n]}
    return Changes(
        incoming=chunk.at(incoming),
        kept=kept,
        contenders={keys[n]: loser_id for n, loser_id in contending.items()},
        n_new=len(incoming) - len(replacing),
        n_changed=len(replacing - repeated),
        n_unchanged=len(unchanged - repeated),
        repeated=sorted(repeated),
        n_again=len((mine & unchanged) - repeated),
    )
