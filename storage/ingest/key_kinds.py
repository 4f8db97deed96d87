"""Reject records whose key an earlier record of another kind has: the number 1 and the string "1", or an id and the
default name of a record without one.

Of two records with one id the last wins, but these are two records. The first one keeps the key, and the other is
rejected. A reading remembers the kind of each key by a bit for each record and for each earlier document.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from docmill.storage.ingest.changes import StoredVersion
from docmill.storage.ingest.chunks import Chunk, Rejected, clash
from docmill.storage.ingest.pruning import Seen
from docmill.storage.readers.records import KeyKind


class KeyKinds:
    """The kinds of a reading's keys, and the records rejected because of them since the last `take`."""

    def __init__(self) -> None:
        self._records = {kind: Seen() for kind in KeyKind}  # by the records' places in the source
        self._documents = {kind: Seen() for kind in KeyKind}
        self._met: set[int] = set()
        self._refused: list[Rejected] = []

    def refuse(self, chunk: Chunk, current: Mapping[str, Any], ingest_id: int) -> tuple[Chunk, Sequence[Rejected]]:
        """Return the records whose keys are of the kind that they had in this reading, and the rejected others.

        `current` has the versions that are stored, by their keys.
        """
        refused: dict[int, Rejected] = {}
        one_kind = len(self._met.union(chunk.kinds)) < 2  # nearly always
        for n, key in enumerate(() if one_kind or not current else chunk.keys):
            if (version := current.get(key)) is not None:
                kind, before = KeyKind(chunk.kinds[n]), self._kind(version, chunk.seqs[n], ingest_id)
                if before is not None and before != kind:
                    refused[n] = clash(key, chunk.places[n], kind, before)
        return (chunk.without(refused), [*refused.values()]) if refused else (chunk, ())

    def note(self, chunk: Chunk, documents: Iterable[tuple[int, int]], refused: Sequence[Rejected]) -> None:
        """Note a chunk that was stored. `documents` are (id, kind) of the earlier documents whose keys it has."""
        self._met.update(chunk.kinds)
        pairs = [*documents]
        for kind in KeyKind:
            self._records[kind].add(seq for seq, its in zip(chunk.seqs, chunk.kinds, strict=True) if its == kind)
            self._documents[kind].add(document for document, its in pairs if its == kind)
        self._refused += refused

    def take(self) -> list[Rejected]:
        """Return the records that were rejected since the last call."""
        refused, self._refused = self._refused, []
        return refused

    def _kind(self, version: StoredVersion, seq: int, ingest_id: int) -> KeyKind | None:
        """Return the kind that this reading found for a stored version's key before a record; None without one."""
        mine = version.ingest_id == ingest_id and version.seq < seq
        found, number = (self._records, version.seq) if mine else (self._documents, version.id)
        return next((kind for kind, seen in found.items() if number in seen), None)
