"""Whatever lies in the queues, a worker does nothing of it, does not die of it, and does its work afterwards."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
import redis

from storage.pipelines import orders
from tests.faults.fleet import Fleet, numbered
from tests.worker.harness import device_pids, until
from tests.worker.hostile import hostile
from worker.orders.desk import Desk
from worker.queue.messages import ENQUEUE_LANE, queue
from worker.settings import load_settings

LANES = ("translate", ENQUEUE_LANE)


def test_a_worker_that_finds_hostile_messages_finishes_a_job_as_if_there_were_none(
    fleet: Fleet, redis_url: str, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    bad = hostile(trap)
    with fleet.worker(lanes="translate,enqueue") as worker, redis.Redis.from_url(redis_url) as client:
        until(fleet.live, "the worker is there")
        [before] = device_pids(worker)
        for lane in LANES:
            client.lpush(queue(lane), *bad.values())
        job = fleet.give(numbered(200))
        assert fleet.finish(job).done == 200
        until(lambda: not any(client.llen(queue(lane)) for lane in LANES), "all are taken")
        until(lambda: fleet.log("worker").count("message_refused") == len(LANES) * len(bad), "each is refused")
        assert device_pids(worker) == [before]
        until(lambda: client.hlen("docmill:unacked") == 0, "none comes again later")
    assert not trap.exists()
    assert "Traceback" not in fleet.log("worker")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"source": "/nowhere/x.jsonl", "task": "embed"}, "DOCMILL_ORDER_ROOTS"),
        ({"source": "/dev/zero", "task": "embed"}, "DOCMILL_ORDER_ROOTS"),
        ({"source": "x.jsonl", "task": "embed", "model": "../../../etc"}, "DOCMILL_MODELS_DIR"),
        ({"source": "x.jsonl", "task": "embed", "priority": 2**62}, "priority must be between"),
        ({"source": "x.jsonl", "task": "embed", "trust_remote_code": True}, "no argument trust_remote_code"),
        ({"source": "x.jsonl", "task": "embed", "order_id": 7}, "order_id is a text"),
    ],
)
def test_an_order_that_cannot_be_carried_out_is_one_line_in_the_log_and_its_sender_sees_why(
    fleet: Fleet,
    arguments: dict[str, object],
    reason: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(fleet.folder)
    fleet.corpus(numbered(1), "x.jsonl")
    settings = load_settings(home=fleet.folder / "home", order_roots=str(fleet.folder))
    broker = fleet.broker()
    with caplog.at_level(logging.ERROR):
        assert Desk(settings, fleet.database, broker, "me", threading.Event()).store("the id", dict(arguments))
    broker.close()
    [record] = caplog.records
    assert record.getMessage().startswith("order_refused order=the id")
    assert fleet.outcomes() == {}
    order = orders.get(fleet.database, "the id")
    assert order.state == "refused"
    assert reason in (order.reason or "")
