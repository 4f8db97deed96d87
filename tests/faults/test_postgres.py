"""PostgreSQL restarted, cut off around a COMMIT, or silent: transactions run again, results are there once."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Shard
from docmill.storage.steps.sharding import unpack
from tests.faults.fleet import SHARD_TEXTS, Fleet, numbered
from tests.faults.proxy import Cut, Proxy
from tests.faults.servers import PostgresCluster
from tests.worker.harness import kill_group, until

OUTCOMES = b"INSERT INTO outcome"
CLAIM = b"started_at="


@pytest.fixture
def fleet(tmp_path: Path, restartable: Database, redis_url: str) -> Fleet:
    return Fleet(tmp_path, restartable, redis_url)


@pytest.fixture
def proxy(fleet: Fleet, own_postgres: PostgresCluster) -> Iterator[Proxy]:
    """A proxy between docmill's processes and the database. The test itself goes past it."""
    with Proxy(own_postgres.port) as proxy:
        fleet.set_database_url(port=proxy.port)
        yield proxy


def test_a_database_that_is_restarted_hard_delays_the_work_and_loses_none(
    fleet: Fleet, own_postgres: PostgresCluster
) -> None:
    n = 10 * SHARD_TEXTS
    job = fleet.give(numbered(n), model="null@1500")
    with fleet.worker(fault="computed:hang@3"):
        until(fleet.strikes, "one shard is computed, and not committed before both restarts")
        own_postgres.restart_hard()
        until(lambda: fleet.states()["done"] >= 5, "it goes on")
        own_postgres.restart_hard()
        fleet.release()
        assert fleet.finish(job).done == n
    assert "Traceback" not in fleet.log("worker")


@pytest.mark.parametrize("when", list(Cut), ids=["before", "after"])
@pytest.mark.parametrize("having", [OUTCOMES, CLAIM], ids=["results", "claim"])
def test_a_commit_whose_answer_was_lost_is_settled_by_reading_and_nothing_is_recomputed(
    fleet: Fleet, proxy: Proxy, having: bytes, when: Cut
) -> None:
    job = fleet.give(numbered(4 * SHARD_TEXTS))
    proxy.cut_at_commit(when, having=having)
    with fleet.worker():
        status = fleet.finish(job)
    assert proxy.cuts == 1
    assert status.done == 4 * SHARD_TEXTS
    shards = fleet.shards(Shard.attempt, Shard.fence)
    assert {row.attempt for row in shards} == {1}
    assert having == CLAIM or {row.fence for row in shards} == {1}
    assert "Traceback" not in fleet.log("worker")


def test_an_enqueue_whose_connection_is_cut_around_a_commit_stores_every_document_once(
    fleet: Fleet, proxy: Proxy
) -> None:
    path = fleet.corpus(numbered(3000))
    for when in Cut:
        proxy.cut_at_commit(when, having=b"COPY document")
        enqueued = fleet.json("enqueue", "translate", path, "--model", "null", "--corpus", when.name)
        assert enqueued["documents"] == 3000
    assert proxy.cuts == 2
    planned = Counter[int]()
    for shard in fleet.shards(Shard.job_id, Shard.contents):
        contents = unpack(shard.contents)
        assert len(set(contents)) == len(contents)
        planned[shard.job_id] += len(contents)
    assert planned == {1: 3000, 2: 3000}


def test_half_open_connections_are_noticed_by_workers_and_heartbeats_and_leases_are_kept(
    fleet: Fleet, proxy: Proxy
) -> None:
    fleet.environment |= {"DOCMILL_DATABASE_ANSWER_S": "1", "DOCMILL_LEASE_S": "60"}
    job = fleet.give(numbered(10 * SHARD_TEXTS), model="null@1500")

    def renewed_until() -> float:
        leases = fleet.shards(Shard.state, Shard.lease_until)
        return max((row.lease_until for row in leases if row.state == "running"), default=0.0)

    with fleet.worker(fault="computed:hang@3"):
        until(fleet.strikes, "one shard is computed, and not committed")
        proxy.lose_all()
        lease_end = renewed_until()
        until(lambda: renewed_until() > lease_end, "leases are renewed or shards claimed over new connections")
        fleet.release()
        fleet.finish(job)
    shards = fleet.shards(Shard.attempt, Shard.lapses)
    assert {(row.attempt, row.lapses) for row in shards} == {(1, 0)}, "no lease lapsed"


@pytest.mark.parametrize("arguments", [["status", 1], pytest.param(["enqueue"], marks=pytest.mark.long)], ids=str)
def test_a_command_whose_database_goes_silent_ends_with_exit_code_3(
    fleet: Fleet, proxy: Proxy, arguments: list[object]
) -> None:
    fleet.environment["DOCMILL_DATABASE_ANSWER_S"] = "1"
    fleet.give(numbered(4))
    if arguments == ["enqueue"]:
        arguments = ["enqueue", "translate", fleet.corpus(numbered(4)), "--model", "null"]
    with fleet.database.unhurried() as holding:
        holding.exec_driver_sql("LOCK TABLE job, step, document, outcome")
        command = fleet.start(*arguments)
        try:
            until(lambda: waits_for_a_lock(fleet.database), "the command waits for an answer")
            proxy.blackhole()
            assert command.wait(60) == 3
        finally:
            if command.poll() is None:
                command.send_signal(signal.SIGKILL)
    log = fleet.log(str(arguments[0]))
    assert "cannot reach the database" in log
    assert "silent" in log
    assert "Traceback" not in log


def waits_for_a_lock(database: Database) -> bool:
    with database.read() as transaction:
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'docmill'"
        )
        return bool(transaction.exec_driver_sql(query).scalar_one())


def test_shards_that_could_not_be_given_back_are_free_without_suspicion_when_the_database_is_back(
    tmp_path: Path, restartable: Database, own_postgres: PostgresCluster, redis_url: str
) -> None:
    fleet = Fleet(tmp_path, restartable, redis_url, lease_s=600)
    fleet.give(numbered(3 * SHARD_TEXTS), model="null@10")
    worker = fleet.start_worker()
    try:
        until(lambda: fleet.states()["running"] == 3, "every thread has a shard")
        own_postgres.kill()
        worker.send_signal(signal.SIGQUIT)
        until(lambda: worker.poll() is not None, "it ends, though nothing could be given back")
    finally:
        if worker.poll() is None:
            kill_group(worker)
    own_postgres.start()
    assert worker.returncode == 0
    assert fleet.states() == {"running": 3}
    with fleet.worker():
        until(
            lambda: {row.lapses for row in fleet.shards(Shard.lapses)} == {1},
            "another worker of the machine frees it",
        )
    assert len(fleet.shards()) == 3, "no shard is split"
    assert {(row.attempt, row.suspect) for row in fleet.shards(Shard.attempt, Shard.suspect)} == {(0, 0)}


def test_a_device_process_that_starts_without_a_database_waits_for_it(
    tmp_path: Path, restartable: Database, own_postgres: PostgresCluster, redis_url: str
) -> None:
    fleet = Fleet(tmp_path, restartable, redis_url)
    with fleet.worker():
        [pid] = until(fleet.live, "the worker is ready").values()
        own_postgres.kill()
        os.kill(pid, signal.SIGKILL)
        until(lambda: "sign_on_waits" in fleet.log("worker"), "the next one waits")
        own_postgres.start()
        job = fleet.give(numbered(SHARD_TEXTS))
        fleet.finish(job)
    assert fleet.log("worker").count("device_died") == 1
    assert "Traceback" not in fleet.log("worker")
