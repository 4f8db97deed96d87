"""A lane is topped up when half of its window is gone. Until then only Redis is queried."""

from __future__ import annotations

import pytest
import redis

from docmill.storage.core.database import Database
from docmill.storage.core.specs import ShardSize
from docmill.storage.leases import shards
from docmill.worker.queue.broker import Broker
from docmill.worker.queue.dispatcher import Refill, top_up
from docmill.worker.queue.messages import queue
from tests.kinds import sized
from tests.storage.builders import EMBED, claim_next, embedded, numbered, read, request, shard
from tests.worker.harness import DEADLINE_S

LANE = "embed"


def test_a_lane_is_filled_again_at_half_of_its_window(
    database: Database, broker: Broker, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "kinds", sized(embed=ShardSize(1, 100)))
    read(database, request(spec=EMBED), numbered(100))
    refill = Refill(database, broker)
    refill.after_shard(LANE)
    window = broker.depth(LANE)
    assert 3 < window < 100
    depths = []
    with redis.Redis.from_url(redis_url) as client:
        for _ in range(window - window // 2 + 1):
            claim = claim_next(database)
            assert client.rpop(queue(LANE)) is not None
            shards.commit(database, claim, embedded(claim), runtime=None)
            refill.after_shard(LANE)
            depths.append(broker.depth(LANE))
    assert depths == [*range(window - 1, window // 2 - 1, -1), window]


def test_the_first_shard_of_a_job_goes_ahead_of_what_waits_for_another(
    database: Database, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "kinds", sized(embed=ShardSize(1, 100)))
    first = read(database, request(spec=EMBED), numbered(100))
    top_up(database, broker, [LANE])
    window = broker.depth(LANE)
    job = read(database, request(spec=EMBED, corpus="another"), [("a", "new"), ("b", "newer")])
    top_up(database, broker, [LANE])
    assert broker.depth(LANE) == window + 1
    later = read(database, request(spec=EMBED, corpus="a third"), [("a", "newest")])
    top_up(database, broker, [LANE])
    assert broker.depth(LANE) == window + 2
    with broker.app.connection() as connection, connection.SimpleQueue(queue(LANE)) as messages:
        shard_ids = [messages.get(timeout=DEADLINE_S).payload[1]["shard_id"] for _ in range(3)]
    assert [shard(database, shard_id).job_id for shard_id in shard_ids] == [job.id, later.id, first.id]
