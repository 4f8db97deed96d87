"""Retention: ended runs, their jobs and rejections are forgotten in time; documents and results are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
from tests.storage.builders import commit_next, count_rows, flagged, numbered, read, read_chunk, records
from tests.storage.steps.test_steps import STEPS, Fleet, pipeline

KEPT_S = 90 * DAY_S


def test_the_texts_of_steps_go_when_a_job_has_ended_and_its_results_stay(database: Database, fleet: Fleet) -> None:
    job_id = fleet.done(pipeline(), numbered(3)).id
    before, status = list(results(database, job_id)), read_status(database, job_id)
    retention.sweep(database, retention.upkeep_ages(KEPT_S))
    assert count_rows(database, StepText) > 0, "somebody may still read its source"
    days_pass(database, 0.1)
    assert retention.forget_step_texts(database, KEPT_S).rows > 0
    assert count_rows(database, StepText) == 0
    assert repr(list(results(database, job_id))) == repr(before)
    assert read_status(database, job_id).steps == status.steps
    assert jobs.retry(database, job_id) == 0


def test_the_texts_of_steps_stay_until_a_run_has_written_the_results(database: Database, fleet: Fleet) -> None:
    job_id = fleet.done(pipeline(), numbered(3)).id
    pipelines.put(database, "nightly", "nightly.toml", "", None)
    pipelines.begin(database, "nightly", "me", 60.0)
    database.execute(update(PipelineRun).values(job_id=job_id, due_at=db_now()))
    days_pass(database, 0.1)
    assert retention.forget_step_texts(database, KEPT_S).rows == 0


def test_a_job_with_failures_can_be_tried_again_until_it_is_too_old(database: Database, fleet: Fleet) -> None:
    fleet.fails = lambda kind, text: kind == "summarize" and "text 1" in text
    job_id = fleet.done(pipeline(), numbered(3)).id
    days_pass(database, 89)
    assert retention.forget_step_texts(database, KEPT_S).rows == 0
    assert jobs.retry(database, job_id) == 1
    fleet.finish()
    days_pass(database, 91)
    assert retention.forget_step_texts(database, KEPT_S).rows > 0
    with pytest.raises(JobStopped, match="too long ago to be tried again; enqueue its source again"):
        jobs.retry(database, job_id)


def test_a_job_that_doubtful_results_stopped_cannot_go_on_without_the_texts_of_its_steps(database: Database) -> None:
    job = read(database, replace(pipeline(steps=STEPS[:2]), max_flagged=0.0), numbered(3))
    commit_next(database, flagged)
    jobs.finish(database)
    days_pass(database, 91)
    assert retention.forget_step_texts(database, KEPT_S).rows > 0
    with pytest.raises(JobStopped, match="too long ago"):
        jobs.retry(database, job.id)


def test_the_texts_of_a_job_that_goes_on_stay(database: Database, fleet: Fleet) -> None:
    job = read(database, pipeline(), numbered(3))
    fleet.work()
    assert retention.forget_step_texts(database, 0.0).rows == 0
    jobs.cancel(database, job.id)
    days_pass(database, 0.1)
    assert retention.forget_step_texts(database, KEPT_S).rows > 0, "a cancelled job cannot be tried again"


def keep(database: Database) -> None:
    pipelines.put(database, "nightly", "/x", "", {"cron": "0 0 * * *", "timezone": "UTC", "overlap": "skip"})


def night(database: Database, fleet: Fleet, due_at: float, state: str = "done") -> int:
    """A scheduled run with its job; the job's number."""
    run_id = pipelines.fire(database, pipelines.scheduled(database)[0], due_at)
    run = pipelines.take(database, run_id or 0, "w1", 60.0)
    assert run is not None
    job = read_chunk(database, pipeline(), records(numbered(3)), [Rejection("line 9", "no JSON")])
    fleet.finish()
    pipelines.note(database, run, state, job_id=job.id)
    return job.id


def test_old_runs_go_with_their_jobs_and_each_pipeline_keeps_its_last(
    database: Database, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PAGE", 2)
    keep(database)
    first, second = night(database, fleet, 1.0), night(database, fleet, 2.0)
    failed = night(database, fleet, 3.0, "failed")
    data = [count_rows(database, table) for table in (Document, Content, OutcomeRow)]
    days_pass(database, 91)
    by_hand = fleet.done(pipeline("b.jsonl"), numbered(3)).id
    days_pass(database, 91)
    last = night(database, fleet, 4.0)
    counted = retention.count(database, {"runs": KEPT_S})["runs"]
    retention.sweep(database, retention.upkeep_ages(KEPT_S))
    assert [run.job_id for run in pipelines.history(database, "nightly")] == [last, failed]
    for gone in (first, second):
        with pytest.raises(NotFound):
            read_status(database, gone)
    for kept in (by_hand, failed, last):
        assert len(list(results(database, kept))) == 3
    assert [count_rows(database, table) for table in (Document, Content, OutcomeRow)] == data
    one_of_documents = [count_rows(database, table) for table in (Ingest, Job, Step)]
    assert one_of_documents == [4, 3, 12], "the reading that brought none is gone"
    assert (counted["job"], counted["ingest"]) == (2, 1)
    assert count_rows(database, RejectionRow) == 1
    assert read_status(database, failed).rejected == 1, "the number stays"
    another = night(database, fleet, 5.0)
    assert another > last, "no number is given twice"


def test_a_run_whose_job_goes_on_or_is_anothers_too_is_forgotten_without_it(database: Database, fleet: Fleet) -> None:
    keep(database)
    jobs_of = [night(database, fleet, 1.0), night(database, fleet, 2.0), night(database, fleet, 3.0)]
    share = update(PipelineRun).where(PipelineRun.job_id == jobs_of[0]).values(job_id=jobs_of[2])
    database.execute(share)
    days_pass(database, 91)
    again = update(Job).where(Job.id == jobs_of[1]).values(state="running", finished_at=None)
    database.execute(again)
    assert retention.forget_runs(database, KEPT_S).rows == 1
    assert [run.job_id for run in pipelines.history(database, "nightly")] == [jobs_of[2], jobs_of[1]]
    assert count_rows(database, Shard) > 0
    assert count_rows(database, Job) == 3


def test_old_runs_that_never_had_a_job_go_but_for_the_last(database: Database) -> None:
    keep(database)
    found = pipelines.scheduled(database)[0]
    going = pipelines.fire(database, found, 1.0)
    for due_at in (2.0, 3.0, 4.0):
        looked_at = update(PipelineRow).values(looked_at=found.looked_at)
        database.execute(looked_at)
        pipelines.fire(database, found, due_at)
    days_pass(database, 89)
    assert retention.forget_runs(database, KEPT_S).rows == 0
    days_pass(database, 2)
    assert retention.forget_runs(database, KEPT_S).rows == 2
    assert [run.state for run in pipelines.history(database, "nightly")] == ["skipped", "due"]
    assert pipelines.hand_out(database) == [going]


def test_rejected_records_of_long_ago_are_forgotten_and_their_number_stays(database: Database) -> None:
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
def test_a_job_that_was_tried_again_between_the_look_and_the_deletion_is_left_alone(
    database: Database, fleet: Fleet, forget: Callable[..., Removed | None], table: type[Base]
) -> None:
    keep(database)
    job_id = night(database, fleet, 1.0)
    assert pipelines.history(database, "nightly")[0].id == job_id
    before = count_rows(database, table)
    database.execute(update(Job).values(state="running", finished_at=None))
    assert database.write(partial(forget, job_id, 10)) is None
    assert count_rows(database, table) == before > 0
