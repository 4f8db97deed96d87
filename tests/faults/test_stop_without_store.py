"""Workers that are told to go while the database is away."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Shard
from tests.faults.fleet import SHARD_TEXTS, Fleet, numbered
from tests.faults.servers import PostgresCluster
from tests.worker.harness import device_pids, kill_group, until


def test_what_could_not_be_given_back_is_free_without_suspicion_once_the_database_is_there(
    tmp_path: Path, restartable: Database, own_postgres: PostgresCluster, redis_url: str
) -> None:
    fleet = Fleet(tmp_path, restartable, redis_url, lease_s=600)
    fleet.give(numbered(3 * SHARD_TEXTS), model="null@10")
    worker = fleet.start_worker()
    try:
        until(lambda: fleet.states()["running"] == 3, "every thread has a shard")
        own_postgres.kill()
        worker.send_signal(signal.SIGQUIT)
        until(lambda: not device_pids(worker), "the device process ends")
        own_postgres.start()
        assert worker.wait(20) == 0
    finally:
        if worker.poll() is None:
            kill_group(worker)
    assert fleet.states() == {"planned": 3}
    assert {(row.attempt, row.suspect) for row in fleet.shards(Shard.attempt, Shard.suspect)} == {(0, 0)}
    assert fleet.live() == {}


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
