"""Retention deletes old runs, their jobs and rejections, and keeps documents and results."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from sqlalchemy import update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import (
    Base,
    Content,
    Document,
    Ingest,
    Job,
    OutcomeRow,
    PipelineRow,
    PipelineRun,
    RejectionRow,
    Shard,
    Step,
    StepText,
    db_now,
)
from docmill.storage.deletion import retention
from docmill.storage.deletion.paging import Removed
from docmill.storage.errors import JobStopped, NotFound
from docmill.storage.pipelines import pipelines
from docmill.storage.readers import Rejection
from docmill.storage.results.results import failures, results
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs
from tests.storage.aging import DAY_S, days_pass
from tests.storage.builders import (
    commit_next,
    count_rows,
    fire_run,
    flagged,
    keep_pipeline,
    numbered,
    read,
    read_chunk,
    records,
    request,
    take_run,
)
from tests.storage.fleet import STEPS, Fleet, pipeline

KEPT_S = 90 * DAY_S


def test_the_texts_of_steps_are_deleted_after_their_job_and_its_run_and_the_results_stay(
    database: Database, fleet: Fleet
) -> None:
    job_id = fleet.run_job(pipeline(), numbered(3)).id
    before, status = list(results(database, job_id)), read_status(database, job_id)
    retention.sweep(database, retention.upkeep_ages(KEPT_S))
    assert count_rows(database, StepText) > 0, "a command may still read its source"
    keep_pipeline(database, None)
    run = pipelines.begin(database, "nightly", "me", 60.0)
    database.execute(update(PipelineRun).values(job_id=job_id, due_at=db_now()))
    days_pass(database, 0.1)
    assert retention.forget_step_texts(database, KEPT_S).rows == 0, "the run has yet to write the results"
    assert pipelines.note(database, run, "done")
    assert retention.forget_step_texts(database, KEPT_S).rows > 0
    assert count_rows(database, StepText) == 0
    assert repr(list(results(database, job_id))) == repr(before)
    assert read_status(database, job_id).steps == status.steps
    assert jobs.retry(database, job_id) == 0


def test_a_job_with_failures_can_be_retried_until_it_is_too_old(database: Database, fleet: Fleet) -> None:
    fleet.fails = lambda kind, text: kind == "summarize" and "text 1" in text
    job_id = fleet.run_job(pipeline(), numbered(3)).id
    days_pass(database, 89)
    assert retention.forget_step_texts(database, KEPT_S).rows == 0
    assert jobs.retry(database, job_id) == 1
    fleet.finish()
    days_pass(database, 91)
    assert retention.forget_step_texts(database, KEPT_S).rows > 0
    with pytest.raises(JobStopped, match="too long ago to be tried again; enqueue its source again"):
        jobs.retry(database, job_id)


def test_a_stopped_job_cannot_be_retried_without_the_texts_of_its_steps(database: Database) -> None:
    job = read(database, request(steps=STEPS[:2], max_flagged=0.0), numbered(3))
    commit_next(database, flagged)
    jobs.finish(database)
    days_pass(database, 91)
    assert retention.forget_step_texts(database, KEPT_S).rows > 0
    with pytest.raises(JobStopped, match="too long ago"):
        jobs.retry(database, job.id)


def test_the_texts_of_an_unfinished_job_stay(database: Database, fleet: Fleet) -> None:
    job = read(database, pipeline(), numbered(3))
    fleet.work()
    assert retention.forget_step_texts(database, 0.0).rows == 0
    jobs.cancel(database, job.id)
    days_pass(database, 0.1)
    assert retention.forget_step_texts(database, KEPT_S).rows > 0, "a cancelled job cannot be retried"


def run_pipeline(database: Database, fleet: Fleet, due_at: float, state: str = "done") -> int:
    """Let a scheduled run read and compute a job, and end in a state. Return the number of the job."""
    run = take_run(database, fire_run(database, due_at))
    job = read_chunk(database, pipeline(), records(numbered(3)), [Rejection("line 9", "no JSON")])
    fleet.finish()
    pipelines.note(database, run, state, job_id=job.id)
    return job.id


def test_old_runs_are_deleted_with_their_jobs_and_each_pipeline_keeps_its_last_run(
    database: Database, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PAGE", 2)
    keep_pipeline(database)
    first, second = run_pipeline(database, fleet, 1.0), run_pipeline(database, fleet, 2.0)
    failed = run_pipeline(database, fleet, 3.0, "failed")
    data = [count_rows(database, table) for table in (Document, Content, OutcomeRow)]
    days_pass(database, 91)
    by_hand = fleet.run_job(pipeline("b.jsonl"), numbered(3)).id
    days_pass(database, 91)
    last = run_pipeline(database, fleet, 4.0)
    counted = retention.count(database, {"runs": KEPT_S})["runs"]
    retention.sweep(database, retention.upkeep_ages(KEPT_S))
    assert [run.job_id for run in pipelines.history(database, "nightly")] == [last, failed]
    for gone in (first, second):
        with pytest.raises(NotFound):
            read_status(database, gone)
    for kept in (by_hand, failed, last):
        assert len(list(results(database, kept))) == 3
    assert [count_rows(database, table) for table in (Document, Content, OutcomeRow)] == data
    n_rows = [count_rows(database, table) for table in (Ingest, Job, Step)]
    assert n_rows == [4, 3, 12], "the ingest without documents is deleted"
    assert (counted["job"], counted["ingest"]) == (2, 1)
    assert count_rows(database, RejectionRow) == 1
    assert read_status(database, failed).rejected == 1, "the number stays"
    another = run_pipeline(database, fleet, 5.0)
    assert another > last, "no number is given twice"


def test_a_run_is_deleted_without_its_job_if_that_is_unfinished_or_shared(database: Database, fleet: Fleet) -> None:
    keep_pipeline(database)
    job_ids = [run_pipeline(database, fleet, due_at) for due_at in (1.0, 2.0, 3.0)]
    database.execute(update(PipelineRun).where(PipelineRun.job_id == job_ids[0]).values(job_id=job_ids[2]))
    days_pass(database, 91)
    database.execute(update(Job).where(Job.id == job_ids[1]).values(state="running", finished_at=None))
    assert retention.forget_runs(database, KEPT_S).rows == 1
    assert [run.job_id for run in pipelines.history(database, "nightly")] == [job_ids[2], job_ids[1]]
    assert count_rows(database, Shard) > 0
    assert count_rows(database, Job) == 3


def test_old_runs_without_a_job_are_deleted_except_the_last_of_each_state(database: Database) -> None:
    nightly = keep_pipeline(database)
    due_id = pipelines.fire(database, nightly, 1.0)
    for due_at in (2.0, 3.0, 4.0):
        database.execute(update(PipelineRow).values(looked_at=nightly.looked_at))
        pipelines.fire(database, nightly, due_at)
    days_pass(database, 89)
    assert retention.forget_runs(database, KEPT_S).rows == 0
    days_pass(database, 2)
    assert retention.forget_runs(database, KEPT_S).rows == 2
    assert [run.state for run in pipelines.history(database, "nightly")] == ["skipped", "due"]
    [handed_out] = pipelines.hand_out(database)
    assert handed_out == due_id
    pipelines.note(database, take_run(database, handed_out), "failed", reason="its source is gone")
    days_pass(database, 91)
    assert retention.forget_runs(database, KEPT_S).rows == 0
    assert [run.state for run in pipelines.history(database, "nightly")] == ["skipped", "failed"]


def test_old_rejections_are_deleted_and_their_number_stays(database: Database) -> None:
    job = read_chunk(database, pipeline(), records([]), [Rejection("line 9", "no JSON")])
    jobs.finish(database)
    assert retention.forget_rejections(database, KEPT_S).rows == 0
    days_pass(database, 91)
    assert retention.forget_rejections(database, KEPT_S).rows == 1
    assert list(failures(database, job.id)) == []
    assert read_status(database, job.id).rejected == 1


@pytest.mark.parametrize(
    ("forget", "table"), [(retention._forget_texts, StepText), (retention._forget_run, Shard)], ids=["texts", "run"]
)
def test_a_job_that_was_retried_just_before_the_deletion_stays(
    database: Database, fleet: Fleet, forget: Callable[..., Removed | None], table: type[Base]
) -> None:
    keep_pipeline(database)
    job_id = run_pipeline(database, fleet, 1.0)
    assert pipelines.history(database, "nightly")[0].id == job_id
    before = count_rows(database, table)
    database.execute(update(Job).values(state="running", finished_at=None))
    assert database.write(partial(forget, job_id, 10)) is None
    assert count_rows(database, table) == before > 0
