"""The state of a fleet in numbers, as the store has it."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import insert
from docmill.storage.core.schema import Ingest, Job, PipelineRow, PipelineRun, Shard, Worker
from docmill.storage.core.tables import db_now
from docmill.storage.core.transaction import Transaction
from docmill.storage.leases import dispatch
from docmill.storage.results.backlog import PACE_S, read_backlog
from docmill.storage.steps import jobs
from tests.storage.builders import dispatched, failed, numbered, read, request, work
from tests.storage.leases.test_dispatch import sign_on

LANES = ("copy", "embed")


def test_an_empty_store_has_a_zero_for_each_lane_and_state(database: Database) -> None:
    found = read_backlog(database, LANES)
    assert found.shards == {(lane, state): 0 for lane in LANES for state in ("planned", "queued", "running")}
    assert (found.jobs, found.oldest_s, found.paces, found.workers, found.pipelines) == ({}, {}, {}, (), ())


def test_open_shards_count_until_they_are_committed(database: Database) -> None:
    read(database, request(), numbered(6), chunk=2)
    n = read_backlog(database, LANES).shards["copy", "planned"]
    assert n >= 1
    assert len(dispatched(database)) == n
    at_work = read_backlog(database, LANES)
    assert (at_work.shards["copy", "planned"], at_work.shards["copy", "queued"]) == (0, n)
    assert at_work.jobs == {"running": 1}
    assert at_work.oldest_s["copy"] >= 0
    assert work(database) == n
    jobs.finish(database)
    ended = read_backlog(database, LANES)
    assert (ended.jobs, ended.oldest_s) == ({"done": 1}, {})
    assert not any(ended.shards.values())
    pace = ended.paces["copy"]
    assert pace.texts == pytest.approx({"done": 6 / PACE_S, "failed": 0, "skipped": 0})
    assert pace.tokens_in > 0


def test_failed_texts_and_what_a_pause_holds_up_are_told_apart(database: Database) -> None:
    read(database, request(), numbered(2))
    work(database, failed)
    jobs.finish(database)
    assert read_backlog(database, LANES).paces["copy"].texts["failed"] == pytest.approx(2 / PACE_S)
    other = read(database, request("b.jsonl"), numbered(2, first=10))
    jobs.pause(database, other.id)
    found = read_backlog(database, LANES)
    assert found.jobs == {"done": 1, "paused": 1}
    assert not any(found.shards.values())


def test_the_pace_forgets_what_ended_long_ago(database: Database) -> None:
    read(database, request(), numbered(2))
    work(database)
    database.write(lambda transaction: transaction.execute(update(Shard).values(finished_at=db_now() - 2 * PACE_S)))
    assert read_backlog(database, LANES).paces == {}


def test_workers_count_while_they_give_signs_of_life(database: Database) -> None:
    sign_on(database, "w1")
    sign_on(database, "w2")
    sign_on(database, "w3")
    read(database, request(), numbered(1))
    dispatch.refuse(database, "w1", 1, "no weights")

    def change(transaction: Transaction) -> None:
        for name, values in (("w2", {"trouble": "the archive is closed"}), ("w3", {"seen_at": db_now() - 100})):
            transaction.execute(update(Worker).where(Worker.id == name).values(**values))

    database.write(change)
    found = read_backlog(database, LANES)
    assert [(worker.trouble, worker.device_problem) for worker in found.workers] == [(False, False), (True, False)]
    assert found.workers[0].lanes
    assert found.refusals == 1


def test_readings_that_stopped_are_counted(database: Database) -> None:
    jobs.open_job(database, request())
    assert read_backlog(database, LANES).readings == {"reading": 1, "stopped": 0}
    silent = update(Ingest).values(seen_at=db_now() - 60)
    database.write(lambda transaction: transaction.execute(silent))
    assert read_backlog(database, LANES).readings == {"reading": 0, "stopped": 1}


def test_a_pipeline_says_when_it_succeeded_and_how_late_it_is(database: Database) -> None:
    def runs(transaction: Transaction) -> None:
        when = {"created_at": db_now(), "looked_at": db_now(), "updated_at": db_now()}
        for number, name in enumerate(("nightly", "new"), 1):
            insert(transaction, PipelineRow, id=number, name=name, path="/x", text="", **when)
        for number, (state, ended, due) in enumerate(
            (("done", 100.0, 1.0), ("failed", 200.0, 2.0), ("skipped", 300.0, 3.0), ("due", None, None))
        ):
            insert(
                transaction,
                PipelineRun,
                pipeline_id=1,
                due_at=db_now() - 90 if due is None else due,
                state=state,
                finished_at=ended,
                created_at=float(number),
            )

    database.write(runs)
    new, nightly = read_backlog(database, LANES).pipelines
    assert (new.name, new.succeeded_at, new.failed, new.late_s) == ("new", None, False, 0.0)
    assert (nightly.name, nightly.succeeded_at, nightly.failed) == ("nightly", 100.0, True)
    assert nightly.late_s >= 90


def test_jobs_of_every_state_are_counted(database: Database) -> None:
    read(database, request(), numbered(1))
    database.write(lambda transaction: transaction.execute(update(Job).values(state="stopped")))
    assert read_backlog(database, LANES).jobs == {"stopped": 1}
