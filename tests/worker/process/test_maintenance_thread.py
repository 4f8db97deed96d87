"""The maintenance thread reclaims the shards of dead processes."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import PipelineRow, db_now
from docmill.storage.deletion import retention
from docmill.storage.errors import DatabaseUnreachable
from docmill.storage.leases import dispatch, maintenance
from docmill.storage.leases.shards import Claim
from docmill.storage.pipelines import pipelines
from docmill.storage.steps.sharding import OPEN_SHARDS
from docmill.worker.concurrency import is_gone, pid_space
from docmill.worker.process import maintenance_thread
from docmill.worker.process.maintenance_thread import UPKEEP, MaintenanceThread, round_of_schedules
from docmill.worker.queue.broker import Broker
from tests.storage.builders import EMBED, claim_next, numbered, read, request, shard, shards_of, sign_on
from tests.worker.harness import DEADLINE_S, until


def sign_on_here(database: Database, worker_id: str, pid: int) -> None:
    sign_on(database, worker_id, "translate", slots=1, host="here", pid=pid, pid_space=pid_space())


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of the rounds that were due. The rounds do nothing."""
    options: list[dict[str, Any]] = []
    monkeypatch.setattr(maintenance_thread, "round_of_maintenance", lambda *_, **more: options.append(more))
    return options


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", "0"])
    process.wait()
    return process.pid


@contextmanager
def running(thread: MaintenanceThread) -> Iterator[MaintenanceThread]:
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()


def wait_until_free(database: Database, claim: Claim) -> None:
    until(lambda: shard(database, claim.shard_id).state != "running", "the shard is free")


def test_a_process_is_gone_when_nobody_has_its_number_or_its_parent_has_not_asked_about_it() -> None:
    assert not is_gone(os.getpid())
    assert not is_gone(1)
    assert is_gone(dead_pid())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert not is_gone(process.pid)
        process.kill()
        until(lambda: is_gone(process.pid), "it counts as gone")
        os.kill(process.pid, 0)  # and yet its number is taken


def test_shards_of_a_dead_worker_of_this_machine_are_free_at_once(database: Database, broker: Broker) -> None:
    read(database, request(spec=EMBED), numbered(600))
    sign_on_here(database, "dead", dead_pid())
    sign_on_here(database, "alive", os.getpid())
    dead_claim, live_claim = claim_next(database, "dead"), claim_next(database, "alive")
    with running(MaintenanceThread(database, broker, "me", every_s=60.0)):
        wait_until_free(database, dead_claim)  # long before its lease lapses
    freed = shard(database, dead_claim.shard_id)
    assert freed.state in OPEN_SHARDS
    assert (freed.attempt, freed.suspect, freed.lapses) == (0, 0, 1), "nobody saw how it ended"
    assert shard(database, live_claim.shard_id).state == "running"
    assert [owner for owner, _ in dispatch.neighbors(database, str(pid_space()))] == ["alive"]


@pytest.mark.parametrize("on_purpose", [False, True])
def test_a_dead_child_is_reaped_at_once_and_suspected_unless_it_was_stopped_on_purpose(
    database: Database, broker: Broker, on_purpose: bool
) -> None:
    read(database, request(spec=EMBED), numbered(3))
    held = claim_next(database, "child")  # before it starts: its first round dispatches as well
    with running(MaintenanceThread(database, broker, "me", every_s=60.0)) as thread:
        thread.reap("child", on_purpose=on_purpose)
        wait_until_free(database, held)
    waiting = [row for row in shards_of(database, held.job_id) if row.state in OPEN_SHARDS]
    assert {row.suspect for row in waiting} == ({0} if on_purpose else {1})


def test_only_its_supervisor_says_how_a_child_died(
    database: Database, broker: Broker, rounds: list[dict[str, Any]]
) -> None:
    read(database, request(spec=EMBED), numbered(3))
    sign_on_here(database, "child", dead_pid())
    held = claim_next(database, "child")
    thread = MaintenanceThread(database, broker, "me", every_s=0.05)
    thread.adopt("child")
    with running(thread):
        until(lambda: len(rounds) > 2, "it has looked for dead neighbors")
        assert shard(database, held.shard_id).state == "running"
        thread.reap("child", on_purpose=True)
        wait_until_free(database, held)
    assert shard(database, held.shard_id).suspect == 0


def test_a_dead_child_is_reaped_when_the_database_is_back(database: Database, broker: Broker) -> None:
    read(database, request(spec=EMBED), numbered(3))
    held = claim_next(database, "child")
    away, refused = threading.Event(), threading.Event()
    away.set()
    write = database.write

    def write_or_not(work):  # type: ignore[no-untyped-def]
        if away.is_set():
            refused.set()
            raise DatabaseUnreachable("it restarts")
        return write(work)

    database.write = write_or_not  # type: ignore[method-assign]
    thread = MaintenanceThread(database, broker, "me", every_s=0.1)
    thread.reap("child")
    with running(thread):
        assert refused.wait(DEADLINE_S)
        away.clear()
        wait_until_free(database, held)


def test_a_maintenance_thread_outlives_an_unexpected_error(
    database: Database, broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rounds: list[int] = []

    def upset(*_: object, **__: object) -> None:
        rounds.append(1)
        if len(rounds) == 1:
            raise ValueError

    monkeypatch.setattr(maintenance_thread, "round_of_maintenance", upset)
    with running(MaintenanceThread(database, broker, "me", every_s=0.05)):
        until(lambda: len(rounds) > 2, "there are more rounds")
    assert caplog.text.count("maintenance_failed") == 1


def test_one_job_alone_is_offered_as_long_as_nobody_else_works(
    database: Database, broker: Broker, rounds: list[dict[str, Any]]
) -> None:
    thread = MaintenanceThread(database, broker, "me", every_s=0.05)
    thread.only_job = 7
    sign_on_here(database, "child", os.getpid())
    thread.adopt("child")
    with running(thread):
        until(lambda: len(rounds) > 2, "there were rounds")
        assert all(options == {"only_job": 7, "lost_level": logging.INFO} for options in rounds)
        sign_on_here(database, "another", os.getpid())
        until(lambda: rounds[-1] == {"only_job": None, "lost_level": logging.WARNING}, "the other worker is seen")


def test_a_queue_of_ones_own_is_maintained_beside_others_and_gets_no_other_job(
    database: Database, broker: Broker, rounds: list[dict[str, Any]]
) -> None:
    sign_on_here(database, "another", os.getpid())
    assert maintenance.hold(database, UPKEEP, "another", 3600)
    with running(MaintenanceThread(database, broker, "me", every_s=0.05, only_job=7, has_own_queue=True)):
        until(lambda: len(rounds) > 1, "there were rounds")
    assert rounds[-1]["only_job"] == 7


@pytest.mark.parametrize("ages", [{"runs": 1.0}, None])
def test_old_rows_are_deleted_once_an_hour(
    database: Database,
    broker: Broker,
    rounds: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    ages: dict[str, float] | None,
) -> None:
    swept: list[object] = []
    monkeypatch.setattr(retention, "sweep", lambda _, ages: swept.append(ages))
    with running(MaintenanceThread(database, broker, "me", every_s=0.05, ages=ages)):
        until(lambda: len(rounds) > 2, "there were rounds")
    assert swept == ([ages] if ages else [])


def test_a_schedule_of_another_release_keeps_none_from_being_due(database: Database, broker: Broker) -> None:
    every_minute = {"cron": "* * * * *", "timezone": "UTC", "overlap": "skip"}
    for name, schedule in (
        ("of-a-later-release", every_minute | {"jitter": "60"}),
        ("unknown", every_minute | {"cron": "hourly"}),
        ("usual", every_minute),
    ):
        pipelines.put(database, name, "/nowhere.toml", "", schedule)
    database.execute(update(PipelineRow).values(looked_at=db_now() - 3600))
    round_of_schedules(database, broker)
    runs = {row.name: len(pipelines.history(database, row.name)) for row, _ in pipelines.every(database)}
    assert runs == {"of-a-later-release": 1, "unknown": 0, "usual": 1}
