"""Jobs on a store and a Redis, worked on by workers that live and die."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from celery import Celery
from sqlalchemy import func, select, update

from storage.database import Database
from storage.schema import Document, OutcomeRow, Refusal, Shard
from tests.worker.harness import EXAMPLES, Docmill, device_pids, kill_group, until
from worker.broker import Broker

DESCRIPTIONS = EXAMPLES / "descriptions.jsonl"
FRENCH = EXAMPLES / "french.jsonl"
TRANSLATE = ("--task", "translate", "--from", "fr", "--to", "en", "--dtype", "float32")


def check(database: Database, fleet: Docmill, job: int) -> None:
    """Every document has exactly one outcome, and the export agrees with the store."""
    status = fleet.json("status", job)
    assert status["state"] == "done", status
    assert status["pending"] == 0
    with database.read() as connection:
        open_shards = connection.scalar(
            select(func.count()).select_from(Shard).where(Shard.state.in_(["planned", "queued", "running"]))
        )
        outcomes = connection.scalar(select(func.count()).select_from(OutcomeRow))
    assert open_shards == 0
    assert outcomes == status["texts"]
    ids = Counter(result["id"] for result in fleet.results(job))
    assert set(ids.values()) == {1}
    assert len(ids) == status["documents"] - status["failed"] - status["skipped"]


def running(database: Database) -> bool:
    with database.read() as connection:
        return connection.scalar(select(Shard.id).where(Shard.state == "running").limit(1)) is not None


def test_a_fleet_gives_what_the_embedded_run_gives(database: Database, fleet: Docmill, embedded: Docmill) -> None:
    with fleet.worker():
        translated = fleet.enqueue(FRENCH, *TRANSLATE, "--limit", 20, "--wait")
        embedding = fleet.enqueue(DESCRIPTIONS, "--task", "embed", "--dtype", "float32", "--limit", 100, "--wait")
        summaries = fleet.enqueue(
            DESCRIPTIONS, "--task", "summarize", "--dtype", "float32", "--limit", 20, "--wait", "--beams", 1
        )
    embedded("run", FRENCH, *TRANSLATE, "--limit", 20)
    embedded("run", DESCRIPTIONS, "--task", "embed", "--dtype", "float32", "--limit", 100)
    embedded("run", DESCRIPTIONS, "--task", "summarize", "--dtype", "float32", "--limit", 20, "--beams", 1)
    for job, same_job, n in ((translated, 1, 20), (summaries, 3, 20)):
        pairs = list(zip(fleet.results(job), embedded.results(same_job), strict=True))
        assert len(pairs) == n
        assert sum(one["text"] == other["text"] for one, other in pairs) >= 0.99 * n
    one = np.array([result["vector"] for result in fleet.results(embedding)])
    other = np.array([result["vector"] for result in embedded.results(2)])
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_what_a_killed_worker_held_is_finished_by_the_next(database: Database, fleet: Docmill) -> None:
    job = fleet.enqueue(FRENCH, *TRANSLATE, "--limit", 48)
    first = fleet.start("worker")
    until(lambda: running(database), "a shard is running")
    kill_group(first)
    with fleet.worker():
        fleet("wait", job)
    check(database, fleet, job)
    with database.read() as connection:
        assert (connection.scalar(select(func.max(Shard.fence))) or 0) >= 3, (
            "a shard was taken away and claimed again"
        )


def test_when_only_the_device_process_dies_its_shards_are_free_at_once(database: Database, fleet: Docmill) -> None:
    fleet.environment["DOCMILL_LEASE_S"] = "600"
    job = fleet.enqueue(FRENCH, *TRANSLATE, "--limit", 24)
    with fleet.worker() as worker:
        until(lambda: running(database), "a shard is running")
        [pid] = device_pids(worker)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not running(database), "the shards are given back, long before their lease lapses", 15)
        fleet("wait", job)
    check(database, fleet, job)


def test_a_drain_commits_what_is_finished_and_gives_the_rest_back(database: Database, fleet: Docmill) -> None:
    job = fleet.enqueue(FRENCH, *TRANSLATE, "--beams", 1)
    with fleet.worker():
        until(lambda: running(database), "a shard is running")
    with database.read() as connection:
        states = set(connection.scalars(select(Shard.state)))
        attempts = connection.scalar(select(func.max(Shard.attempt)).where(Shard.state != "done"))
    assert "running" not in states
    assert attempts == 0, "a drain spends no attempt"
    with fleet.worker():
        fleet("wait", job)
    check(database, fleet, job)


def test_an_enqueue_that_was_killed_is_carried_on_by_the_same_command(
    database: Database, fleet: Docmill, write_corpus: Callable[..., Path]
) -> None:
    n = 30_000
    write_corpus({"id": i, "text": f"Package number {i} of many."} for i in range(n))

    def stored() -> int:
        with database.read() as connection:
            return connection.scalar(select(func.count()).select_from(Document)) or 0

    first = fleet.start("enqueue", "corpus.jsonl", "--task", "embed")
    until(lambda: stored() >= 2_000, "some documents are stored")
    kill_group(first)
    assert stored() < n, "it was killed half-way"
    done = fleet.json("enqueue", "corpus.jsonl", "--task", "embed")
    assert (done["id"], done["adopted"], done["documents"]) == (1, True, n)
    again = fleet.json("enqueue", "corpus.jsonl", "--task", "embed")
    assert (again["id"], again["counts"]["new"], again["counts"]["planned"]) == (1, 0, 0)
    assert stored() == n
    with database.read() as connection:
        assert connection.scalar(select(func.sum(Shard.n_contents))) == n


def test_two_jobs_over_overlapping_corpora_both_end_and_store_nothing_twice(
    database: Database, fleet: Docmill
) -> None:
    few = fleet.enqueue(FRENCH, *TRANSLATE, "--limit", 30, "--beams", 1)
    more = fleet.enqueue(FRENCH, *TRANSLATE, "--limit", 50, "--beams", 1)
    assert few != more
    with fleet.worker("--threads", "4"):
        fleet("wait", few)
        fleet("wait", more)
    assert (len(fleet.results(few)), len(fleet.results(more))) == (30, 50)
    with database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(OutcomeRow)) == fleet.json("status", more)["texts"]


def test_losing_all_of_redis_is_a_delay(database: Database, fleet: Docmill, redis_url: str) -> None:
    import redis

    job = fleet.enqueue(DESCRIPTIONS, "--task", "embed")
    with redis.Redis.from_url(redis_url) as client:
        assert client.llen("docmill:v1:embed") > 0
        client.flushdb()
    # What was queued counts as lost once its grace is over: that time is moved, not waited for.
    database.write(
        lambda connection: connection.execute(
            Shard.__table__.update().values(dispatched_at=Shard.dispatched_at - 60)  # type: ignore[attr-defined]
        )
    )
    with fleet.worker():
        fleet("wait", job)
    check(database, fleet, job)


def test_a_model_whose_files_changed_blocks_the_job_without_spending_an_attempt(
    database: Database, fleet: Docmill
) -> None:
    import shutil

    model = fleet.folder / "models" / "mine"
    shutil.copytree(EXAMPLES / "models" / "marian-ddtp", model)
    fleet.environment["DOCMILL_MODELS_DIR"] = str(model.parent)
    job = fleet.enqueue(FRENCH, *TRANSLATE, "--model", "mine", "--limit", 4)
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:1_000_000])
    with fleet.worker():
        until(lambda: "blocked" in (fleet.json("status", job)["waiting_for"] or ""), "the job is blocked")
        with database.read() as connection:
            assert connection.scalar(select(func.max(Shard.attempt))) == 0
        (model / "model.safetensors").write_bytes(weights)
        # A refusal holds for half a minute: that time is moved, not waited for.
        database.write(lambda connection: connection.execute(update(Refusal).values(refused_at=0.0)))
        fleet("wait", job)
    check(database, fleet, job)


def test_a_celery_task_enqueues_as_the_command_does(database: Database, fleet: Docmill, redis_url: str) -> None:
    scheduler = Celery(broker=redis_url, set_as_current=False)  # anybody's, with no settings of ours
    ours = "docmill:v1:enqueue"
    with fleet.worker("--lanes", "embed"):
        good = {"source": str(DESCRIPTIONS), "task": "embed", "limit": 8}
        scheduler.send_task("docmill.enqueue", kwargs=good, queue=ours)
        scheduler.send_task("docmill.enqueue", kwargs={**good, "trust_remote_code": True}, queue=ours)
        scheduler.send_task("docmill.enqueue", kwargs={**good, "task": "sing"}, queue=ours)
        until(lambda: fleet.json("jobs"), "the message became a job")
        fleet("wait", 1)
        until(lambda: "trust_remote_code" in fleet.log("worker"), "the bad message is refused in the log")
        until(lambda: "task is one of" in fleet.log("worker"), "so is one with an unknown task")
    assert "Traceback" not in fleet.log("worker")
    scheduler.close()
    assert len(fleet.json("jobs")) == 1
    assert len(fleet.results(1)) == 8


def test_a_cancelled_job_stops_and_keeps_what_is_done(database: Database, fleet: Docmill) -> None:
    job = fleet.enqueue(FRENCH, *TRANSLATE)
    with fleet.worker():
        until(lambda: running(database), "a shard is running")
        assert fleet.json("cancel", job)["cancelled"]
        assert not fleet.json("cancel", job)["cancelled"]
        assert not running(database)
    assert fleet.json("status", job)["state"] == "cancelled"
    assert fleet("wait", job, code=1).returncode == 1


def test_a_dozen_workers_threads_do_no_shard_twice_when_every_message_comes_ten_times(
    database: Database, fleet: Docmill, redis_url: str
) -> None:
    job = fleet.enqueue(DESCRIPTIONS, "--task", "embed", "--limit", 60)
    broker = Broker(redis_url)
    with database.read() as connection:
        shard_ids = list(connection.scalars(select(Shard.id)))
    broker.publish("embed", shard_ids * 10)
    broker.close()
    with fleet.worker("--threads", "8"):
        fleet("wait", job)
        until(lambda: Broker(redis_url).depth("embed") == 0, "every message was looked at")
    check(database, fleet, job)
    with database.read() as connection:
        assert connection.scalar(select(func.max(Shard.attempt))) == 1
    assert json.loads(fleet("status", job, "--json").stdout)["done"] == 60
