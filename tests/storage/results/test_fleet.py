"""The state of a fleet in numbers, as the store knows it."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Ingest, Job, Shard, Worker, db_now
from docmill.storage.leases import dispatch, shards
from docmill.storage.leases.diagnosis import Cause
from docmill.storage.pipelines import pipelines
from docmill.storage.results.fleet import (
    LANE_PACE_S,
    TimeShares,
    read_fleet,
)
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs
from tests.storage.builders import (
    claim_next,
    done,
    finish,
    fire_run,
    keep_pipeline,
    numbered,
    read,
    request,
    sign_on,
    take_run,
)

LANES = ("copy", "embed")


def test_a_lane_has_the_ages_of_its_oldest_job_and_first_shard_in_the_queue_and_its_pace(database: Database) -> None:
    job = read(database, request(), numbered(6), chunk=2)
    at_work = read_fleet(database, LANES)
    assert at_work.jobs == {"running": 1}
    assert at_work.lanes[0].oldest_s is not None
    assert at_work.lanes[0].oldest_queued_s is None
    database.execute(update(Shard).values(state="queued", dispatched_at=db_now() - 90))
    assert (read_fleet(database, LANES).lanes[0].oldest_queued_s or 0) >= 90
    database.execute(update(Job).values(paused=True))
    assert read_fleet(database, LANES).lanes[0].oldest_queued_s is None
    jobs.resume(database, job.id)
    finish(database)
    ended = read_fleet(database, LANES)
    lane = ended.lanes[0]
    assert (ended.jobs, lane.oldest_s, lane.open) == ({"done": 1}, None, 0)
    assert lane.statuses_per_s == pytest.approx({"done": 6 / LANE_PACE_S, "failed": 0, "skipped": 0})
    assert lane.tokens_in_per_s > 0


def test_only_workers_with_a_recent_heartbeat_are_listed(database: Database) -> None:
    for worker in ("w1", "w2", "w3"):
        sign_on(database, worker)
    read(database, request(), numbered(1))
    dispatch.refuse(database, "w1", 1, "no weights")

    for name, values in (("w2", {"trouble": "the archive is closed"}), ("w3", {"seen_at": db_now() - 100})):
        database.execute(update(Worker).where(Worker.id == name).values(**values))
    fleet = read_fleet(database, LANES)
    assert [(worker.trouble, worker.device_problem) for worker in fleet.workers] == [
        (None, None),
        ("the archive is closed", None),
    ]
    assert fleet.workers[0].lanes
    assert [refused.reason for refused in fleet.workers[0].refused] == ["no weights"]


def test_stopped_readings_are_counted_and_named_in_the_status_of_their_jobs(database: Database) -> None:
    job = jobs.open_job(database, request())
    assert read_fleet(database, LANES).readings == {"reading": 1, "stopped": 0}
    assert read_status(database, job.id).waiting_cause is not Cause.READING
    database.execute(update(Ingest).values(seen_at=db_now() - 90))
    assert read_fleet(database, LANES).readings == {"reading": 0, "stopped": 1}
    assert read_status(database, job.id).waiting_cause is Cause.READING


def test_a_pipeline_has_the_time_of_its_last_success_and_its_delay(database: Database) -> None:
    keep_pipeline(database, schedule=None, name="new")
    now = keep_pipeline(database).now
    for due_at, state in ((now - 300, "done"), (now - 200, "failed")):
        run = take_run(database, fire_run(database, due_at))
        pipelines.note(database, run, state)
    fire_run(database, now - 90)
    fire_run(database, now - 80)  # it is skipped
    *_, succeeded = pipelines.history(database, "nightly")
    new, nightly = read_fleet(database, LANES).pipelines
    assert (new.name, new.succeeded_at, new.failed, new.late_s) == ("new", None, False, 0.0)
    assert (nightly.name, nightly.succeeded_at, nightly.failed) == ("nightly", succeeded.finished_at, True)
    assert nightly.late_s >= 90


SECONDS = {"reading": 1.0, "cutting": 1.0, "computing": 7.0, "writing": 1.0, "working": 10.0, "device": 9.0}


def test_the_status_has_the_computed_texts_and_the_time_use_of_the_workers_that_hold_the_job(
    database: Database,
) -> None:
    job = read(database, request(), numbered(3))
    sign_on(database, "w1")
    sign_on(database, "w2")
    claim = claim_next(database, owner="w1")
    assert read_status(database, job.id).time_use is None
    shards.heartbeat(database, "w1", computed={job.id: 1.25, job.id + 1: 7.0}, time_use=SECONDS)
    shards.heartbeat(database, "w2", computed={}, time_use=SECONDS | {"writing": 90.0})
    status = read_status(database, job.id)
    assert (status.computed, status.time_use) == (1.25, TimeShares(0.9, 0.1, 0.1, 0.7, 0.1))
    shards.commit(database, claim, done(claim), None)
    assert read_status(database, job.id).computed == 0.0, "its texts are written"
    shards.heartbeat(database, "w1", computed={}, time_use=SECONDS)
    assert read_status(database, job.id).time_use is None
