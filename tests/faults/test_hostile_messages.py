"""Whatever lies in the queues, a worker does nothing of it, does not die of it, and does its work afterwards."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import redis

from tests.faults.mill import Mill, numbered
from tests.worker.harness import device_pids, until
from tests.worker.hostile import hostile
from worker.messages import ENQUEUE_LANE, redis_key

LANES = ("translate", ENQUEUE_LANE)


def test_a_worker_that_finds_hostile_messages_finishes_a_job_as_if_there_were_none(
    mill: Mill, redis_url: str, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    bad = hostile(trap)
    with mill.worker() as worker, redis.Redis.from_url(redis_url) as client:
        until(mill.live, "the worker is there")
        [before] = device_pids(worker)
        for lane in LANES:
            client.lpush(redis_key(lane), *bad.values())
        job = mill.give(numbered(200))
        assert mill.finish(job).done == 200
        until(lambda: not any(client.llen(redis_key(lane)) for lane in LANES), "all are taken")
        until(lambda: mill.log("worker").count("message_refused") == len(LANES) * len(bad), "each is refused")
        assert device_pids(worker) == [before]
        until(lambda: client.hlen("docmill:unacked") == 0, "none comes again later")
    assert not trap.exists()
    assert "Traceback" not in mill.log("worker")


@pytest.mark.parametrize(
    "arguments",
    [
        {"source": "/nowhere/x.jsonl", "task": "embed"},
        {"source": "/dev/zero", "task": "embed"},
        {"source": "x.jsonl", "task": "embed", "model": "../../../etc"},
        {"source": "x.jsonl", "task": "embed", "priority": 2**62},
        {"source": "x.jsonl", "task": "embed", "trust_remote_code": True},
    ],
)
def test_an_order_that_cannot_be_carried_out_is_one_line_in_the_log(
    mill: Mill, arguments: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    from worker.enqueue import enqueue_message
    from worker.settings import load_settings

    settings = load_settings(home=mill.folder / "home")
    broker = mill.broker()
    with caplog.at_level(logging.ERROR):
        enqueue_message(settings, mill.database, broker, arguments)
    broker.close()
    [record] = caplog.records
    assert record.getMessage().startswith("enqueue_refused")
    assert mill.outcomes() == {}
