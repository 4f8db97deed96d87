"""Records on their way into the store, in columns. One transaction stores a chunk of them. The reading thread makes
them while another thread stores.

Columns, because a chunk has thousands of records: making and garbage-collecting an object for each record and step
takes longer than storing them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import orjson

from docmill.storage.core.normalize import MENDED
from docmill.storage.core.schema import AnyRow
from docmill.storage.readers import Record, Rejection, Source
from docmill.storage.readers.records import KeyKind

_NAMES = {KeyKind.STRING: "a string", KeyKind.NUMBER: "a number"}
_COLUMNS = ("keys", "texts", "hashes", "metas", "flags", "seqs", "kinds", "places")
CHUNK_RECORDS = 8_000
FIRST_CHUNK_RECORDS = 256  # as many as a shard has, so that a device can start while the rest is read
CHUNK_CHARS = 8_000_000  # keeps the transaction short and the memory small for long documents


# A version of a document with the columns `ingest.VERSION`. The reading `ingest_id` found it at place `seq` of the
# source.
StoredVersion: TypeAlias = AnyRow


@dataclass(frozen=True)
class Versions:
    """Versions of documents: key, content, metadata and flags as JSON text, and place in the order of the source."""

    keys: Sequence[str]
    content_ids: Sequence[int]
    metas: Sequence[str]
    flags: Sequence[str]
    seqs: Sequence[int]

    def __len__(self) -> int:
        return len(self.keys)

    def at(self, places: Sequence[int]) -> Versions:
        """Return the versions at these places."""
        if len(places) == len(self):
            return self
        return Versions(*(_at(places, column) for column in vars(self).values()))

    def equals(self, place: int, stored: StoredVersion) -> bool:
        """Return True if the version at a place equals a stored document."""
        return bool(
            stored.content_id == self.content_ids[place]
            and _are_equal(stored.meta, orjson.loads(self.metas[place]))
            and stored.flags == orjson.loads(self.flags[place])
        )


def _are_equal(one: Any, other: Any) -> bool:
    """Return True if two JSON values are equal. Python takes true for 1, and false for 0."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_are_equal(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_are_equal, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


@dataclass(frozen=True)
class Chunk:
    """Records that are stored together: the last one of each key, out of `n_records`.

    `kinds` are those of the keys (`KeyKind`), `places` are for messages, and `refused` are records whose key was
    taken by a record of another kind. `superseded` are records whose key comes again in the chunk.
    """

    n_records: int = 0
    keys: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    metas: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    refused: Sequence[Rejection] = ()
    superseded: Sequence[Rejection] = ()

    @property
    def mended(self) -> list[str]:
        """The places of the records whose text was mended (see `storage.core.normalize`)."""
        pairs = zip(self.flags, self.places, strict=True)
        return [place for flags, place in pairs if flags != "[]" and any(mended in flags for mended in MENDED)]

    def at(self, places: Sequence[int]) -> Chunk:
        """Return the chunk with only the records at these places. `n_records` does not change."""
        columns: dict[str, Any] = {name: _at(places, getattr(self, name)) for name in _COLUMNS}
        return replace(self, **columns)

    def without(self, places: Collection[int]) -> Chunk:
        """Return the chunk without the records at these places."""
        kept = self.at([n for n in range(len(self.keys)) if n not in places])
        return replace(kept, n_records=self.n_records - len(places))

    def versions(self, content_ids: dict[bytes, int]) -> Versions:
        """Return the records as versions of documents, given the ids of their contents by hash."""
        return Versions(self.keys, [content_ids[sha256] for sha256 in self.hashes], self.metas, self.flags, self.seqs)


class ChunkBuilder:
    """Collects a source's records into a chunk."""

    def __init__(self) -> None:
        self.n_chars = 0
        self._gathered = Chunk()

    def __len__(self) -> int:
        return len(self._gathered.keys)

    def put(
        self,
        key: str,
        text: str,
        meta: dict[str, Any],
        flags: Sequence[str],
        seq: int,
        kind: KeyKind = KeyKind.STRING,
        place: str = "",
    ) -> None:
        """Add a record: normalized text, metadata (JSON values) and its place in the order of the source."""
        columns = self._gathered
        columns.keys.append(key)
        columns.texts.append(text)
        columns.hashes.append(hashlib.sha256(text.encode()).digest())
        columns.metas.append(meta_json := orjson.dumps(meta).decode() if meta else "{}")
        columns.flags.append(orjson.dumps(flags).decode() if flags else "[]")
        columns.seqs.append(seq)
        columns.kinds.append(kind)
        columns.places.append(place)
        self.n_chars += len(text) + len(meta_json)

    def chunk(self) -> Chunk:
        """Return the gathered records as one chunk."""
        whole = replace(self._gathered, n_records=len(self))
        last = {key: place for place, key in enumerate(whole.keys)}
        if len(last) == len(self):
            return whole
        last.clear()
        refused, superseded = [], []
        for n, key in enumerate(whole.keys):
            kind, before = KeyKind(whole.kinds[n]), KeyKind(whole.kinds[last.get(key, n)])
            if kind == before:
                if key in last:
                    superseded.append(reject_earlier(key, whole.places[last[key]], whole.places[n]))
                last[key] = n
            else:
                refused.append(reject_clash(key, whole.places[n], kind, before))
        n_records = len(self) - len(refused)
        return replace(whole.at([*last.values()]), n_records=n_records, refused=refused, superseded=superseded)


def reject_earlier(key: str, place: str, later: str) -> Rejection:
    """Return the rejection of a record that a later one of the same id replaced."""
    reason = f'its id "{key}" comes again at {later}, and the last record counts: give one another id'
    return Rejection(place, reason, superseded=True)


def reject_clash(key: str, place: str, kind: KeyKind, before: KeyKind) -> Rejection:
    """Return the rejection of a record whose key an earlier record of another kind has."""
    if kind == KeyKind.PLACE:
        reason = "it has no id, and the name that it gets by its place is the id of an earlier record: give it an id"
    elif before == KeyKind.PLACE:
        reason = (
            "its id is the name that an earlier record without an id got by its place: give one of them another id"
        )
    else:
        reason = (
            f"its id is {_NAMES[kind]}, and an earlier record has the same one as {_NAMES[before]}; both would be "
            "one document: write them alike, or give one another id"
        )
    return Rejection(place, reason, keys=(key,))


def _at(places: Sequence[int], column: Sequence[Any]) -> list[Any]:
    return [column[place] for place in places]


def read_chunks(source: Source) -> Iterator[tuple[Chunk, list[Rejection]]]:
    """Yield a source's records chunk by chunk, each with the rejections since the chunk before."""
    gathered = ChunkBuilder()
    rejected: list[Rejection] = []
    most = FIRST_CHUNK_RECORDS
    for seq, record in enumerate(source.records()):
        if isinstance(record, Record):
            gathered.put(record.key, record.text, record.meta, record.flags, seq, record.key_kind, record.where)
        else:
            rejected.append(record)
        if len(gathered) + len(rejected) >= most or gathered.n_chars >= CHUNK_CHARS:
            chunk = gathered.chunk()
            yield chunk, [*rejected, *chunk.refused]
            gathered, rejected, most = ChunkBuilder(), [], CHUNK_RECORDS
    if gathered or rejected:
        chunk = gathered.chunk()
        yield chunk, [*rejected, *chunk.refused]
