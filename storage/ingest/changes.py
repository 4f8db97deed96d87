"""The comparison of a chunk's records with the stored versions of their documents. It reads and writes nothing.

Of two records with one id the last wins. But the number 1 and the string "1" are different ids, and so are an id and
the default name of a record without an id: the first record keeps the key, and the other is rejected. A reading
remembers the kind of each key by a bit for each record and for each earlier document.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from docmill.storage.ingest.chunks import Chunk, StoredVersion, Versions, reject_clash
from docmill.storage.readers import Rejection
from docmill.storage.readers.records import KeyKind


@dataclass(frozen=True)
class Changes:
    """Changes that a chunk makes to its corpus.

    `incoming` become current versions. `kept` has the ids of the current versions that stay, by their records'
    places in the chunk. `contenders` has the ids of superseded versions that the reading brings again, by their keys.

    Each incoming and each unchanged record is counted once as new, changed, unchanged or repeated. A repeated record
    has the key of another record of its source; `repeated` has their places in the chunk. `n_again` of the unchanged
    records were stored by another reading of the ingest.
    """

    incoming: Versions
    kept: Mapping[int, int]
    contenders: Mapping[str, int]
    n_new: int
    n_changed: int
    n_unchanged: int
    repeated: Sequence[int]
    n_again: int


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
    `same` are the places of equal records (see `compare`), and `ingest_id` is the reading of the chunk.
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


class SeenDocuments:
    """The documents that a reading has seen, as a bit for each document id up to the highest."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, document_ids: Iterable[int]) -> None:
        bits = self._bits
        for document_id in document_ids:
            place = document_id >> 3
            if place >= len(bits):
                bits.extend(bytes(max(place + 1 - len(bits), len(bits))))  # at least double, to copy rarely
            bits[place] |= 1 << (document_id & 7)

    def __contains__(self, document_id: int) -> bool:
        place = document_id >> 3
        return place < len(self._bits) and bool(self._bits[place] >> (document_id & 7) & 1)


class KeyKinds:
    """The kinds of a reading's keys, and the records rejected because of them since the last `take`."""

    def __init__(self) -> None:
        self._records = {kind: SeenDocuments() for kind in KeyKind}  # by the records' places in the source
        self._documents = {kind: SeenDocuments() for kind in KeyKind}
        self._met: set[int] = set()
        self._refused: list[Rejection] = []

    def refuse(self, chunk: Chunk, current: Mapping[str, Any], ingest_id: int) -> tuple[Chunk, Sequence[Rejection]]:
        """Return the chunk without records whose key had another kind in this reading, and the rejections of these.

        `current` has the versions that are stored, by their keys.
        """
        refused: dict[int, Rejection] = {}
        one_kind = len(self._met.union(chunk.kinds)) < 2  # nearly always
        for n, key in enumerate(() if one_kind or not current else chunk.keys):
            if (version := current.get(key)) is not None:
                kind, before = KeyKind(chunk.kinds[n]), self._kind(version, chunk.seqs[n], ingest_id)
                if before is not None and before != kind:
                    refused[n] = reject_clash(key, chunk.places[n], kind, before)
        return (chunk.without(refused), [*refused.values()]) if refused else (chunk, ())

    def note(self, chunk: Chunk, documents: Iterable[tuple[int, int]], refused: Sequence[Rejection]) -> None:
        """Note a chunk that was stored. `documents` are (id, kind) of the earlier documents whose keys it has."""
        self._met.update(chunk.kinds)
        pairs = [*documents]
        for kind in KeyKind:
            self._records[kind].add(seq for seq, its in zip(chunk.seqs, chunk.kinds, strict=True) if its == kind)
            self._documents[kind].add(document for document, its in pairs if its == kind)
        self._refused += refused

    def take(self) -> list[Rejection]:
        """Return the records that were rejected since the last call."""
        refused, self._refused = self._refused, []
        return refused

    def _kind(self, version: StoredVersion, seq: int, ingest_id: int) -> KeyKind | None:
        """Return the kind that this reading found for a stored version's key before a record; None without one."""
        mine = version.ingest_id == ingest_id and version.seq < seq
        by_kind, number = (self._records, version.seq) if mine else (self._documents, version.id)
        return next((kind for kind, seen in by_kind.items() if number in seen), None)
