"""The kinds of tasks that the tests' stores know."""

from __future__ import annotations

from storage.kinds import ShardSize, StoredKind
from tasks.kinds import STORED_KINDS

KINDS = STORED_KINDS


def sized(**sizes: ShardSize) -> dict[str, StoredKind]:
    """Return kinds with these sizes of shards in place of their own."""
    return {**KINDS} | {name: StoredKind(name, KINDS[name].output, size) for name, size in sizes.items()}
