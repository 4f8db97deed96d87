"""Messages that come often, late, out of order, to the wrong release or about nothing: hints, and no more."""

from __future__ import annotations

import random
from contextlib import ExitStack
from typing import Any

import redis

from storage import jobs
from storage.schema import Shard
from tests.faults.mill import SHARD_TEXTS, Mill, numbered
from tests.worker.harness import until
from worker.messages import SHARD_TASK, queue

LANE = "translate"
NEXT_RELEASE = """
import worker.messages
worker.messages.VERSION = 2
"""


def waiting(mill: Mill, version: int = 1) -> int:
    assert mill.redis_url is not None
    with redis.Redis.from_url(mill.redis_url) as client:
        depth = client.llen(f"docmill:v{version}:{LANE}")
        assert isinstance(depth, int)
        return depth


def publish(mill: Mill, shard_ids: list[int]) -> None:
    broker = mill.broker()
    broker.publish(LANE, shard_ids)
    broker.close()


def ids(mill: Mill) -> list[int]:
    return [row.id for row in mill.shards(Shard.id)]


def test_every_message_ten_times_to_four_workers_computes_each_shard_once(mill: Mill) -> None:
    job = mill.give(numbered(8 * SHARD_TEXTS))
    every = ids(mill) * 10
    random.Random(16).shuffle(every)
    publish(mill, every)
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(mill.worker("--threads", "2", "--lanes", LANE))
        until(lambda: len(mill.live()) == 4, "four workers are ready")
        mill.finish(job)
        until(lambda: waiting(mill) == 0, "every message was looked at")
    assert {row.attempt for row in mill.shards(Shard.attempt)} == {1}
    assert "Traceback" not in mill.log("worker")


def test_messages_that_come_late_or_out_of_order_or_about_nothing_change_nothing(mill: Mill) -> None:
    done = mill.give(numbered(3 * SHARD_TEXTS))
    cancelled = mill.give(numbered(3 * SHARD_TEXTS, first=1000))
    jobs.cancel(mill.database, cancelled)
    with mill.worker():
        mill.finish(done)
        before = mill.shards()
        publish(mill, [*reversed(ids(mill)), *ids(mill), 10**9])
        until(lambda: waiting(mill) == 0, "every message was looked at")
        last = mill.give(numbered(SHARD_TEXTS, first=2000))
        mill.finish(last)  # what was looked at before it is done with
    after = {row.id: row for row in mill.shards()}
    assert [after[row.id] for row in before] == before
    assert "Traceback" not in mill.log("worker")


def test_a_message_of_another_protocol_is_refused_and_stops_nobody(mill: Mill) -> None:
    broker = mill.broker()
    bad: list[dict[str, Any]] = [
        {"v": 2, "shard_id": 1},
        {"v": 1},
        {"v": 1, "shard_id": "1"},
        {"v": 1, "shard_id": -1},
    ]
    for arguments in bad:
        broker.app.send_task(SHARD_TASK, kwargs=arguments, queue=queue(LANE))
    broker.close()
    job = mill.give(numbered(SHARD_TEXTS))
    with mill.worker():
        mill.finish(job)
        until(lambda: waiting(mill) == 0, "every message was looked at")
    assert {row.attempt for row in mill.shards(Shard.attempt)} == {1}


def test_workers_of_two_releases_share_a_redis_without_reading_each_others_messages(mill: Mill) -> None:
    job = mill.give(numbered(4 * SHARD_TEXTS))
    sent = waiting(mill, version=1)
    assert sent == 4
    of_this_release = dict(mill.environment)
    mill.patch(NEXT_RELEASE)
    with mill.worker():
        until(mill.live, "a worker of the next release is ready")
        second = mill.give(numbered(SHARD_TEXTS, first=1000))
        offered = waiting(mill, version=1)
        assert offered >= sent, "the other release's messages are left alone"
        assert offered <= sent + 1, (
            "the new shard was sent by this release or, where it was the first to look, by the next"
        )
        # They count as lost once their grace is over: that time is moved, not waited for.
        mill.set_shards(dispatched_at=Shard.dispatched_at - 60)
        mill.finish(job)
        mill.finish(second)
        assert waiting(mill, version=1) == offered
    mill.environment = of_this_release
    with mill.worker():
        until(lambda: waiting(mill, version=1) == 0, "a worker of this release looks at its own messages")
    assert {row.attempt for row in mill.shards(Shard.attempt)} == {1}
