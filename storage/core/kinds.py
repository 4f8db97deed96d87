"""The part of a kind of task that the store needs: the type of its outputs and the size of its shards."""

from __future__ import annotations

from dataclasses import dataclass

from storage.outputs.base import OutputType


@dataclass(frozen=True)
class ShardSize:
    """The bounds of a shard: whichever is reached first. Aimed at 10 to 60 s of work."""

    contents: int
    chars: int


# A device writes text about a hundred times slower than it reads it.
READING_SIZE = ShardSize(256, 400_000)
WRITING_SIZE = ShardSize(64, 60_000)


@dataclass(frozen=True)
class StoredKind:
    """A kind of task, as the store knows it. A spec names it, and so does the lane of its shards."""

    name: str
    output: OutputType
    shard: ShardSize
