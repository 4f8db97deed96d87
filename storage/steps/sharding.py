"""Plan shards: cut a list of contents into shards, and a shard into parts."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from docmill.storage.core.schema import Shard
from docmill.storage.core.specs import ShardSize
from docmill.storage.core.transaction import Transaction, columns_of
from docmill.storage.steps.steps import OpenStep

TOGETHER = 16  # texts of a suspect
OPEN_SHARDS = ("planned", "queued", "running")
# The column values of an unclaimed shard.
UNTOUCHED = {
    column.name: column.default.arg  # type: ignore[attr-defined]
    for column in Shard.__table__.columns
    if column.default is not None
}


def plan(
    transaction: Transaction,
    job_id: int,
    step: OpenStep,
    sized: Sequence[tuple[int, int]],
    *,
    redo: bool = False,
) -> None:
    """Cut contents and their lengths in characters into planned shards of a step."""
    parts = [[content_id for content_id, _ in shard] for shard in cut(sized, transaction.kind_of(step.lane).shard)]
    same = {"job_id": job_id, "step": step.seq, "spec_id": step.spec_id, "lane": step.lane, "redo": redo}
    add_planned(transaction, parts, dict(sized), same)


def add_planned(
    transaction: Transaction, parts: Sequence[Sequence[int]], sizes: Mapping[int, int], same: Mapping[str, Any]
) -> None:
    """Insert a planned shard for each part of some contents, all with the `same` values of other columns."""
    rows = [{**UNTOUCHED, **same, **extent(part, sizes), "state": "planned"} for part in parts]
    transaction.load(Shard, columns_of(rows))


def cut(sized: Sequence[tuple[int, int]], size: ShardSize) -> Iterator[list[tuple[int, int]]]:
    """Yield consecutive runs of (content id, characters) within `size`, as even as the order allows.

    A content that is longer than the bound makes a shard of its own.
    """
    total_chars = sum(chars for _, chars in sized)
    n_shards = max(-(-len(sized) // size.contents), -(-total_chars // size.chars), 1)
    even = -(-len(sized) // n_shards)  # 260 contents become 2 × 130, not 256 + 4
    shard: list[tuple[int, int]] = []
    n_chars = 0
    for content_id, chars in sized:
        if shard and (len(shard) >= even or n_chars + chars > size.chars):
            yield shard
            shard, n_chars = [], 0
        shard.append((content_id, chars))
        n_chars += chars
    if shard:
        yield shard


def split(content_ids: Sequence[int]) -> list[list[int]]:
    """Return parts of at most 16 contents, nearly equal and in order; up to 16 contents become parts of one each."""
    n = -(-len(content_ids) // TOGETHER) if len(content_ids) > TOGETHER else len(content_ids)
    return [list(content_ids[i * len(content_ids) // n : (i + 1) * len(content_ids) // n]) for i in range(n)]


def extent(contents: Sequence[int], sizes: Mapping[int, int]) -> dict[str, Any]:
    """Return a shard's columns for its contents. `sizes` has the lengths of the contents in characters."""
    n_chars = sum(sizes.get(content_id, 0) for content_id in contents)
    return {"contents": pack(contents), "n_contents": len(contents), "n_chars": n_chars}


def pack(content_ids: Sequence[int]) -> bytes:
    """Return content ids as little-endian int64."""
    return struct.pack(f"<{len(content_ids)}q", *content_ids)


def unpack(packed: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(packed) // 8}q", packed))
