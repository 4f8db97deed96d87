"""Whatever lies in the queues, a worker does nothing of it, does not die of it, and does its work afterwards."""

from __future__ import annotations

from pathlib import Path

import redis

from docmill.worker.queue.messages import ENQUEUE_LANE, queue
from tests.faults.fleet import Fleet, numbered
from tests.worker.harness import device_pids, until
from tests.worker.hostile import hostile, hostile_orders, order

LANES = ("translate", ENQUEUE_LANE)


def test_a_worker_that_finds_hostile_messages_finishes_a_job_as_if_there_were_none(
    fleet: Fleet, redis_url: str, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    bad, orders = hostile(trap), {**hostile(trap), **hostile_orders(trap)}
    with fleet.worker(lanes="translate,enqueue") as worker, redis.Redis.from_url(redis_url) as client:
        until(fleet.live, "the worker is there")
        [before] = device_pids(worker)
        n = client.lpush(queue("translate"), *bad.values()) + client.lpush(queue(ENQUEUE_LANE), *orders.values())
        client.lpush(queue(ENQUEUE_LANE), *called_in_place(trap))
        job = fleet.give(numbered(200))
        assert fleet.finish(job).done == 200
        until(lambda: not any(client.llen(queue(lane)) for lane in LANES), "all are taken")
        until(lambda: fleet.log("worker").count("message_refused") == n, "each is refused")
        assert device_pids(worker) == [before]
        until(lambda: client.hlen("docmill:unacked") == 0, "none comes again later")
    assert not trap.exists()
    assert "Traceback" not in fleet.log("worker")
    assert fleet.log("worker").count("order_refused") == 2


def called_in_place(trap: Path) -> list[bytes]:
    """Return orders that are refused, and whose tasks for errors Celery would call in the worker if it had them."""
    shard = {"task": "docmill.shard", "args": [], "kwargs": {"v": 1, "shard_id": 1}, "options": {}}
    options = {"queue": "elsewhere"}
    errors = [
        {"task": "celery.map", "args": [shard, [{}]], "kwargs": {}, "options": options, "immutable": True},
        {"task": "celery.accumulate", "args": [], "kwargs": {}, "options": options},
    ]
    return [order([[], {"source": str(trap)}, {"errbacks": [error]}]) for error in errors]
