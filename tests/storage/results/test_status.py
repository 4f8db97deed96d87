"""The status of a job: counts, pace, time left, and why it makes no progress."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from sqlalchemy import text

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Outcome, Status
from docmill.storage.leases import shards
from docmill.storage.leases.diagnosis import UNBLOCKING, Cause, JobSnapshot, waiting_for
from docmill.storage.results.status import JobStatus, list_statuses, read_status
from docmill.storage.results.time_left import TimeLeft
from docmill.storage.steps import jobs
from tests.storage.builders import (
    claim_next,
    commit_next,
    done,
    numbered,
    read,
    record_statements,
    request,
    run_job,
    set_shard,
    shards_of,
    sign_on,
)

PROGRESSING = JobSnapshot(
    state="running",
    lane="copy",
    pending=5,
    running=1,
    silent=0,
    ingest_age_s=None,
    workers=2,
    workers_of_lane=1,
    refusals=(),
)
STUCK = replace(PROGRESSING, running=0)


@pytest.mark.parametrize(
    "snapshot",
    [
        STUCK,  # a worker is about to claim a shard
        replace(STUCK, pending=0, workers_of_lane=0),
        replace(STUCK, state="done", workers_of_lane=0),
        replace(PROGRESSING, workers_of_lane=0),  # its worker has just ended
        replace(PROGRESSING, state="ingesting", ingest_age_s=29.0),
        replace(STUCK, workers_of_lane=2, refusals=("cannot serve it",)),  # the other worker may serve it
        replace(STUCK, next_try_s=-1.0),
        replace(PROGRESSING, silent=2, lapse_s=40.0),  # other workers go on
        replace(PROGRESSING, trouble="the archive is closed"),  # of another worker
    ],
)
def test_a_job_that_makes_progress_or_has_ended_waits_for_nothing(snapshot: JobSnapshot) -> None:
    assert waiting_for(snapshot) is None


@pytest.mark.parametrize(
    ("snapshot", "cause", "says"),
    [
        (
            replace(PROGRESSING, state="ingesting", ingest_age_s=61.4),
            Cause.READING,
            "nothing came from its source for 61 s; if the command that reads it has ended",
        ),
        (replace(STUCK, workers=0, workers_of_lane=0), Cause.NO_WORKER, "if it was `docmill run`"),
        (replace(STUCK, workers=3, workers_of_lane=0), Cause.NO_WORKER, "(3 serve other lanes)"),
        (replace(STUCK, refusals=("no weights",)), Cause.BLOCKED, f"no weights. {UNBLOCKING}"),
        (replace(STUCK, next_try_s=3.7), Cause.BACKING_OFF, "the next one is in 4 s"),
        (replace(STUCK, silent=3, lapse_s=41.7), Cause.LEASE, "free for another in 42 s"),
        (replace(STUCK, silent=1, lapse_s=9.0, workers_of_lane=0), Cause.NO_WORKER, "free for another in 9 s"),
        (replace(STUCK, workers_of_lane=0, refusals=("no weights",)), Cause.NO_WORKER, "refused: no weights"),
        (replace(STUCK, trouble="the archive is closed", silent=1), Cause.STORE, "the archive is closed"),
        (replace(PROGRESSING, state="paused"), Cause.PAUSED, "`docmill resume`"),
    ],
)
def test_a_job_without_progress_says_what_it_waits_for(snapshot: JobSnapshot, cause: Cause, says: str) -> None:
    actual, sentence = waiting_for(snapshot) or (None, "")
    assert actual == cause
    assert says in sentence


def test_counts_follow_the_shards(database: Database) -> None:
    job = read(database, request(), [*numbered(300), ("again", "text 7")])
    status = read_status(database, job.id)
    assert (status.documents, status.texts, status.pending, status.done) == (301, 300, 300, 0)
    assert status.shards == {"planned": 2}
    assert (status.time_left.left_s, status.time_left.tokens_per_s) == (None, 0.0)
    assert status.no_worker
    claim = claim_next(database)
    first, second, *rest = done(claim)
    mixed = [
        Outcome(first.content_id, Status.SKIPPED, flags=("empty",)),
        Outcome(second.content_id, Status.FAILED, reason="no"),
    ]
    shards.commit(database, claim, mixed + rest, None)
    status = read_status(database, job.id)
    assert (status.done, status.failed, status.skipped, status.pending) == (148, 1, 1, 150)
    assert status.shards == {"queued": 1, "done": 1}
    assert (status.tokens_in, status.tokens_out) == (444, 296)
    assert not status.ended


def test_the_time_left_follows_from_what_is_left_and_the_pace(database: Database) -> None:
    job = read(database, request(), [(f"k{i:04}", f"text {i:04}") for i in range(1_200)], chunk=150)
    sign_on(database, "w1")
    for _ in range(4):
        commit_next(database)
    ended = [row for row in shards_of(database, job) if row.state == "done"]
    assert [row.n_contents for row in ended] == [150] * 4
    now = read_status(database, job.id).created_at
    for place, row in enumerate(ended):
        set_shard(database, row.id, started_at=now - 40 + 10 * place, finished_at=now - 30 + 10 * place)
    status = read_status(database, job.id)
    left = status.time_left
    assert left.left_s == pytest.approx(40 + status.elapsed_s, abs=0.5)  # the other half takes as long as the first
    assert not left.at_least
    assert left.texts_per_s == pytest.approx(600 / (40 + status.elapsed_s), rel=0.05)
    assert left.tokens_per_s == pytest.approx(status.tokens_in / (40 + status.elapsed_s), rel=0.05)


def test_a_job_that_ended_has_an_end_and_its_rate_without_a_pause(database: Database) -> None:
    job = run_job(database, request(), numbered(3), chunk=2)
    first, last = shards_of(database, job)
    set_shard(database, first.id, started_at=last.finished_at - 904, finished_at=last.finished_at - 900)
    set_shard(database, last.id, started_at=last.finished_at - 4)
    status = read_status(database, job.id)
    assert status.ended
    assert status.time_left.tokens_per_s == pytest.approx(status.tokens_in / 8)
    assert (status.time_left.left_s, status.waiting_for) == (None, None)
    assert status.finished_at is not None
    assert status.elapsed_s == pytest.approx(status.finished_at - status.created_at)


def test_a_job_whose_worker_fell_silent_says_when_its_shards_are_free(database: Database) -> None:
    job = read(database, request(), numbered(3))
    sign_on(database, "w1")
    sign_on(database, "w2")
    claim = claim_next(database, "w1")
    assert read_status(database, job.id).waiting_cause is None
    database.execute(text("UPDATE worker SET seen_at = seen_at - 20 WHERE id = 'w1'"))
    status = read_status(database, job.id)
    assert status.waiting_cause is Cause.LEASE
    assert re.match(
        r"1 shard is held by a worker that gives no sign of life; free for another in [3-6]\d s, ",
        str(status.waiting_for),
    )
    shards.heartbeat(database, "w1", only=[claim.shard_id])
    assert read_status(database, job.id).waiting_cause is None


def test_a_list_of_jobs_takes_as_many_statements_as_a_single_job(database: Database) -> None:
    for worker in ("w1", "w2"):
        sign_on(database, worker)
    ids = [read(database, request(f"{n}.jsonl"), numbered(3, first=3 * n)).id for n in range(5)]
    claim_next(database, "w1")
    commit_next(database, owner="w2")
    jobs.pause(database, ids[3])
    statements = record_statements(database)
    of_one = list_statuses(database, limit=1)
    n_of_one = len(statements)
    statements.clear()
    of_all = list_statuses(database, limit=5)
    assert len(statements) <= n_of_one + 1  # the workers that hold shards, which only some jobs have
    assert len(of_one) == 1
    alone = [read_status(database, job_id) for job_id in ids[::-1]]
    assert list(map(_without_times, of_all)) == list(map(_without_times, alone))
    assert [status.waiting_cause for status in of_all].count(Cause.PAUSED) == 1


def _without_times(status: JobStatus) -> JobStatus:
    """Return a status without the values that change with time, and those that a list does not have."""
    return replace(status, elapsed_s=0.0, time_left=TimeLeft(), lost=None, removed=None, swept=None)
