from __future__ import annotations

import pytest

from storage.flow.cutting import ShardSize


@pytest.fixture(autouse=True)
def shards_of_256(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that some hundred texts make several, whatever their size is."""
    monkeypatch.setattr("storage.flow.following.SHARD_SIZES", {"embed": ShardSize(256, 400_000)})
