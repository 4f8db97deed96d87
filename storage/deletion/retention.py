"""Delete old rows that every run adds: records of met contents, runs of pipelines with their jobs, rejections.

Documents, texts and results stay: only a user removes them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

from sqlalchemy import ColumnElement, Select, and_, delete, func, or_, select, update

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import delete_page
from docmill.storage.core.schema import (
    Contender,
    Document,
    Ingest,
    Job,
    PipelineRun,
    Refusal,
    Rejection,
    Shard,
    Step,
    StepText,
)
from docmill.storage.core.tables import db_now
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion.ages import Ages
from docmill.storage.deletion.budget import Budget
from docmill.storage.deletion.kept_counts import forget_counts
from docmill.storage.errors import RightMissing
from docmill.storage.steps.jobs import UNFINISHED

PAGE = 5_000  # rows deleted in one transaction
SETTLED_S = 3_600.0  # a reading may still add documents to a job that has just ended


def sweep(database: Database, ages: Ages) -> None:
    """Delete old runs, jobs, rejections and refusals. Rows that this database user may not delete stay."""
    for rule, forget in SWEPT:
        if (age_s := ages.get(rule)) is not None:
            with suppress(RightMissing):
                forget(database, age_s)


def forget_step_texts(database: Database, older_than_s: float, budget: Budget | None = None) -> int:
    """Delete the records of texts that the steps of ended jobs had met. Return their number.

    A retry needs them. So a job with failures keeps them for the whole time, and other jobs for an hour.
    """
    budget = budget or Budget()
    has_texts = select(StepText.step).where(StepText.job_id == Job.id).exists()
    needless = jobs_with_needless_texts(older_than_s)
    with database.read() as transaction:
        jobs = transaction.scalars(select(Job.id).where(needless, has_texts).order_by(Job.id)).all()
    return sum(_in_pages(database, partial(_forget_texts, job_id), budget) for job_id in jobs)


def jobs_with_needless_texts(older_than_s: float) -> ColumnElement[bool]:
    """Return the condition for a job that no retry needs, or that ended long ago."""
    failed = or_(
        select(Shard.id).where(Shard.job_id == Job.id, Shard.n_failed > 0).exists(),
        select(Step.seq).where(Step.job_id == Job.id, Step.n_prior_failed > 0).exists(),
    )
    nothing_to_retry = or_(Job.state == "cancelled", and_(Job.state == "done", ~failed))
    return or_(ended_before(older_than_s), and_(ended_before(SETTLED_S), nothing_to_retry))


def ended_before(age_s: float) -> ColumnElement[bool]:
    """Return the condition for a job that ended longer ago."""
    return and_(Job.state.not_in(UNFINISHED), Job.finished_at < db_now() - age_s)


def _forget_texts(job_id: int, transaction: Transaction, size: int) -> int:
    if not _note_forgotten(transaction, job_id):
        return 0
    return delete_page(transaction, StepText, StepText.job_id == job_id, size)


def _note_forgotten(transaction: Transaction, job_id: int) -> bool:
    """Note that a job cannot be retried any more. Return False if it runs again, or is gone."""
    ended = update(Job).where(Job.id == job_id, Job.state.not_in(UNFINISHED))
    return transaction.execute(ended.values(forgotten_at=db_now())).rowcount > 0


def forget_runs(database: Database, older_than_s: float, budget: Budget | None = None) -> int:
    """Delete old runs that have no job. Return their number. Each pipeline keeps its last run."""
    old = runs_without_job(older_than_s)
    with database.read() as transaction:  # most often there is none; a read waits for no writer
        if transaction.scalar(select(PipelineRun.id).where(old).limit(1)) is None:
            return 0
    page = partial(delete_page, table=PipelineRun, condition=old)
    return _in_pages(database, page, budget or Budget())


def runs_without_job(older_than_s: float) -> ColumnElement[bool]:
    """Return the condition for an old run that has no job, and is not the last of its pipeline."""
    last = select(func.max(PipelineRun.id)).group_by(PipelineRun.pipeline_id)
    return and_(
        PipelineRun.finished_at < db_now() - older_than_s,
        PipelineRun.job_id.is_(None),
        PipelineRun.id.not_in(last),
    )


def forget_jobs(database: Database, older_than_s: float, budget: Budget | None = None) -> int:
    """Delete old runs of pipelines with their jobs. Return the number of runs.

    Each pipeline keeps its last run of each state. Documents and results stay, and so do jobs without a pipeline.
    """
    budget = budget or Budget()
    with database.read() as transaction:
        runs = transaction.scalars(old_runs(older_than_s).order_by(PipelineRun.id)).all()
    for done, run_id in enumerate(runs):
        if budget.is_spent():
            return done
        _in_pages(database, partial(_forget_run, run_id), budget)
    return len(runs)


def old_runs(older_than_s: float) -> Select[int]:
    """Return a query for old runs with a job that ended long ago, without the last of each pipeline and state."""
    last = select(func.max(PipelineRun.id)).where(PipelineRun.job_id.is_not(None))
    return (
        select(PipelineRun.id)
        .join(Job, Job.id == PipelineRun.job_id)
        .where(
            PipelineRun.finished_at < db_now() - older_than_s,
            PipelineRun.id.not_in(last.group_by(PipelineRun.pipeline_id, PipelineRun.state)),
            ended_before(older_than_s),
        )
    )


def _forget_run(run_id: int, transaction: Transaction, size: int) -> int:
    """Delete the next page of rows of a run's job, and at last the run and the job. Return the number of rows."""
    transaction.keep_last_ids(Job, Ingest, Shard)
    job_id = transaction.scalar(select(PipelineRun.job_id).where(PipelineRun.id == run_id))
    this = delete(PipelineRun).where(PipelineRun.id == run_id)
    others = select(PipelineRun.id).where(PipelineRun.job_id == job_id, PipelineRun.id != run_id).limit(1)
    if job_id is None or transaction.scalar(others) is not None:
        transaction.execute(this)
        return 0
    if not _note_forgotten(transaction, job_id):  # the job was retried
        return 0
    ingest_id = transaction.execute(select(Job.ingest_id).where(Job.id == job_id)).scalar_one()
    of_job = ((Shard, Shard.job_id == job_id), (StepText, StepText.job_id == job_id))
    of_ingest = ((Rejection, Rejection.ingest_id == ingest_id), (Contender, Contender.ingest_id == ingest_id))
    for table, condition in (*of_job, *of_ingest):
        if n := delete_page(transaction, table, condition, size):
            return n
    transaction.execute(this)
    transaction.execute(delete(Step).where(Step.job_id == job_id))
    transaction.execute(delete(Job).where(Job.id == job_id))
    forget_counts(transaction, [job_id])
    has_documents = select(Document.id).where(Document.ingest_id == ingest_id).limit(1)
    if transaction.scalar(has_documents) is None:
        transaction.execute(delete(Ingest).where(Ingest.id == ingest_id))
    return 0


def forget_rejections(database: Database, older_than_s: float, budget: Budget | None = None) -> int:
    """Delete the rejections of readings whose job ended before. Return their number, which each reading keeps."""
    total, budget = 0, budget or Budget()
    for table in (Rejection, Contender):
        has_some = select(table.ingest_id).where(table.ingest_id == Job.ingest_id).exists()
        with database.read() as transaction:
            ingests = transaction.scalars(select(Job.ingest_id).where(ended_before(older_than_s), has_some)).all()
        for ingest_id in ingests:
            of_ingest = table.ingest_id == ingest_id
            total += _in_pages(database, partial(delete_page, table=table, condition=of_ingest), budget)
    return total


def forget_refusals(database: Database, older_than_s: float, budget: Budget | None = None) -> int:
    """Delete the reasons why workers refused a spec that are older. Return their number."""
    old = Refusal.refused_at < db_now() - older_than_s
    return _in_pages(database, partial(delete_page, table=Refusal, condition=old), budget or Budget())


class _Page(Protocol):
    """Removes up to `size` rows in a transaction, and returns their number."""

    def __call__(self, transaction: Transaction, *, size: int) -> int: ...


def _in_pages(database: Database, page: _Page, budget: Budget) -> int:
    total = 0
    while not budget.is_spent():
        size = budget.page(PAGE)
        n = budget.spend(database.write(lambda transaction, size=size: page(transaction, size=size)))  # type: ignore[misc]
        total += n
        if not n:
            break
    return total


# The rules that maintenance applies each hour, in this order.
SWEPT: tuple[tuple[str, Callable[..., int]], ...] = (
    ("step_texts", forget_step_texts),
    ("runs", forget_runs),
    ("runs", forget_jobs),
    ("rejections", forget_rejections),
    ("refusals", forget_refusals),
)
