"""Messages that are repeated, late, out of order, for another release or about no shard do no harm."""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path

import redis

from docmill.storage.core.schema import Shard
from docmill.storage.steps import jobs
from docmill.worker.queue.messages import queue
from docmill.worker.settings import ENQUEUE_LANE
from tests.faults.fleet import SHARD_TEXTS, Fleet, numbered
from tests.worker.harness import device_pids, until
from tests.worker.hostile import hostile, hostile_orders, order

LANE = "translate"
LANES = (LANE, ENQUEUE_LANE)
NEXT_RELEASE = """
import docmill.worker.queue.messages
docmill.worker.queue.messages.VERSION = 2
"""


def waiting(fleet: Fleet, version: int = 1) -> int:
    assert fleet.redis_url is not None
    with redis.Redis.from_url(fleet.redis_url) as client:
        depth = client.llen(f"docmill:v{version}:{LANE}")
        assert isinstance(depth, int)
        return depth


def publish(fleet: Fleet, shard_ids: list[int]) -> None:
    broker = fleet.broker()
    broker.publish(LANE, shard_ids)
    broker.close()


def ids(fleet: Fleet) -> list[int]:
    return [row.id for row in fleet.shards(Shard.id)]


def test_messages_to_four_workers_that_come_often_late_or_about_nothing_compute_each_shard_once(fleet: Fleet) -> None:
    job = fleet.give(numbered(8 * SHARD_TEXTS))
    cancelled = fleet.give(numbered(3 * SHARD_TEXTS, first=1000))
    jobs.cancel(fleet.database, cancelled)
    messages = [*ids(fleet), 10**9] * 10
    random.Random(16).shuffle(messages)
    publish(fleet, messages)
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(fleet.worker("--threads", "2", "--lanes", LANE))
        until(lambda: len(fleet.live()) == 4, "four workers are ready")
        fleet.finish(job)
        shards_before = fleet.shards()
        publish(fleet, messages)
        until(lambda: waiting(fleet) == 0, "every message was looked at")
        fleet.finish(fleet.give(numbered(SHARD_TEXTS, first=2000)))  # what was looked at before it is done with
    assert fleet.shards()[: len(shards_before)] == shards_before
    assert {(row.job_id == cancelled, row.attempt) for row in shards_before} == {(False, 1), (True, 0)}
    assert "Traceback" not in fleet.log("worker")


def test_workers_of_two_releases_share_a_redis_without_reading_each_others_messages(fleet: Fleet) -> None:
    job = fleet.give(numbered(4 * SHARD_TEXTS))
    n_sent = waiting(fleet, version=1)
    assert n_sent == 4
    of_this_release = dict(fleet.environment)
    fleet.patch(NEXT_RELEASE)
    with fleet.worker():
        until(fleet.live, "a worker of the next release is ready")
        second = fleet.give(numbered(SHARD_TEXTS, first=1000))
        n_offered = waiting(fleet, version=1)
        assert n_offered >= n_sent, "the other release's messages are left alone"
        assert n_offered <= n_sent + 1, (
            "the new shard was sent by this release or, where it was the first to look, by the next"
        )
        fleet.end_grace()
        fleet.finish(job)
        fleet.finish(second)
        assert waiting(fleet, version=1) == n_offered
    fleet.environment = of_this_release
    with fleet.worker():
        until(lambda: waiting(fleet, version=1) == 0, "a worker of this release looks at its own messages")
    assert {row.attempt for row in fleet.shards(Shard.attempt)} == {1}


def test_a_worker_that_finds_hostile_messages_finishes_a_job_as_if_there_were_none(
    fleet: Fleet, redis_url: str, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    bad, orders = hostile(trap), {**hostile(trap), **hostile_orders(trap)}
    with fleet.worker(lanes="translate,enqueue") as worker, redis.Redis.from_url(redis_url) as client:
        until(fleet.live, "the worker is there")
        [device] = device_pids(worker)
        n = client.lpush(queue("translate"), *bad.values()) + client.lpush(queue(ENQUEUE_LANE), *orders.values())
        client.lpush(queue(ENQUEUE_LANE), *called_in_place(trap))
        job = fleet.give(numbered(200))
        assert fleet.finish(job).done == 200
        until(lambda: not any(client.llen(queue(lane)) for lane in LANES), "all are taken")
        until(lambda: fleet.log("worker").count("message_refused") == n, "each is refused")
        assert device_pids(worker) == [device]
        until(lambda: client.hlen("docmill:unacked") == 0, "none comes again later")
    assert not trap.exists()
    assert "Traceback" not in fleet.log("worker")
    assert fleet.log("worker").count("order_refused") == 2


def called_in_place(trap: Path) -> list[bytes]:
    """Return orders that are refused, with tasks for errors that Celery would call in a worker that has them."""
    shard = {"task": "docmill.shard", "args": [], "kwargs": {"v": 1, "shard_id": 1}, "options": {}}
    options = {"queue": "elsewhere"}
    errors = [
        {"task": "celery.map", "args": [shard, [{}]], "kwargs": {}, "options": options, "immutable": True},
        {"task": "celery.accumulate", "args": [], "kwargs": {}, "options": options},
    ]
    return [order([[], {"source": str(trap)}, {"errbacks": [error]}]) for error in errors]
