"""Collect a source's records into chunks. One transaction stores a chunk."""

from __future__ import annotations

from collections.abc import Iterator

from docmill.storage.ingest.chunks import Chunk, ChunkBuilder, Rejected
from docmill.storage.ingest.ingest import CHUNK_RECORDS
from docmill.storage.readers import Record, Source

FIRST_CHUNK_RECORDS = 256  # as many as a shard has, so that a device can start while the rest is read
CHUNK_CHARS = 8_000_000  # keeps the transaction short and the memory small for long documents


def chunks(source: Source) -> Iterator[tuple[Chunk, list[Rejected]]]:
    """Yield a source's records chunk by chunk, each with the rejections since the chunk before."""
    gathered = ChunkBuilder()
    rejected: list[Rejected] = []
    most = FIRST_CHUNK_RECORDS
    for seq, record in enumerate(source.records()):
        if isinstance(record, Record):
            gathered.put(record.key, record.text, record.meta, record.flags, seq, record.key_kind, record.where)
        else:
            rejected.append(Rejected(record.where, record.reason, record.fatal, record.keys, record.below))
        if len(gathered) + len(rejected) >= most or gathered.n_chars >= CHUNK_CHARS:
            chunk = gathered.chunk()
            yield chunk, [*rejected, *chunk.refused]
            gathered, rejected, most = ChunkBuilder(), [], CHUNK_RECORDS
    if gathered or rejected:
        chunk = gathered.chunk()
        yield chunk, [*rejected, *chunk.refused]
