"""Delete old rows that every run adds: records of met contents, runs of pipelines with their jobs, rejections.

Documents, texts and results stay: only a user removes them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from sqlalchemy import and_, delete, func, or_, select, update

from storage.core.clock import db_now
from storage.core.database import Database
from storage.core.pages import delete_page
from storage.core.schema import Contender, Document, Ingest, Job, PipelineRun, Rejection, Shard, Step, StepText
from storage.core.transaction import Transaction
from storage.errors import RightMissing
from storage.steps.jobs import UNFINISHED

PAGE = 5_000  # rows deleted in one transaction
SETTLED_S = 3_600.0  # a reading may still add documents to a job that has just ended


def sweep(database: Database, older_than_s: float) -> None:
    """Delete old runs, jobs and rejections. Rows that this database user may not delete stay."""
    for forget in (forget_step_texts, forget_runs, forget_jobs, forget_rejections):
        with suppress(RightMissing):
            forget(database, older_than_s)


def forget_step_texts(database: Database, older_than_s: float) -> int:
    """Delete the records of texts that the steps of ended jobs had met. Return their number.

    A retry needs them. So a job with failures keeps them for the whole time, and other jobs for an hour.
    """
    failed = or_(
        select(Shard.id).where(Shard.job_id == Job.id, Shard.n_failed > 0).exists(),
        select(Step.seq).where(Step.job_id == Job.id, Step.n_prior_failed > 0).exists(),
    )
    nothing_to_retry = or_(Job.state == "cancelled", and_(Job.state == "done", ~failed))
    needless = or_(_ended_before(older_than_s), and_(_ended_before(SETTLED_S), nothing_to_retry))
    has_texts = select(StepText.step).where(StepText.job_id == Job.id).exists()
    with database.read() as transaction:
        jobs = transaction.scalars(select(Job.id).where(needless, has_texts).order_by(Job.id)).all()
    return sum(_in_pages(database, partial(_forget_texts, job_id)) for job_id in jobs)


def _ended_before(age_s: float) -> Any:
    return and_(Job.state.not_in(UNFINISHED), Job.finished_at < db_now() - age_s)


def _forget_texts(job_id: int, transaction: Transaction) -> int:
    if not _note_forgotten(transaction, job_id):
        return 0
    return delete_page(transaction, StepText, StepText.job_id == job_id, PAGE)


def _note_forgotten(transaction: Transaction, job_id: int) -> bool:
    """Note that a job cannot be retried any more. Return False if it runs again, or is gone."""
    ended = update(Job).where(Job.id == job_id, Job.state.not_in(UNFINISHED))
    return transaction.execute(ended.values(forgotten_at=db_now())).rowcount > 0


def forget_runs(database: Database, older_than_s: float) -> int:
    """Delete old runs that have no job. Return their number. Each pipeline keeps its last run."""
    last = select(func.max(PipelineRun.id)).group_by(PipelineRun.pipeline_id)
    old = and_(
        PipelineRun.finished_at < db_now() - older_than_s,
        PipelineRun.job_id.is_(None),
        PipelineRun.id.not_in(last),
    )
    with database.read() as transaction:  # most often there is none; a read waits for no writer
        if transaction.scalar(select(PipelineRun.id).where(old).limit(1)) is None:
            return 0
    return _in_pages(database, lambda transaction: delete_page(transaction, PipelineRun, old, PAGE))


def forget_jobs(database: Database, older_than_s: float) -> int:
    """Delete old runs of pipelines with their jobs. Return the number of runs.

    Each pipeline keeps its last run of each state. Documents and results stay, and so do jobs without a pipeline.
    """
    last = select(func.max(PipelineRun.id)).where(PipelineRun.job_id.is_not(None))
    old = (
        select(PipelineRun.id)
        .join(Job, Job.id == PipelineRun.job_id)
        .where(
            PipelineRun.finished_at < db_now() - older_than_s,
            PipelineRun.id.not_in(last.group_by(PipelineRun.pipeline_id, PipelineRun.state)),
            _ended_before(older_than_s),
        )
    )
    with database.read() as transaction:
        runs = transaction.scalars(old.order_by(PipelineRun.id)).all()
    for run_id in runs:
        _in_pages(database, partial(_forget_run, run_id))
    return len(runs)


def _forget_run(run_id: int, transaction: Transaction) -> int:
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
        if n := delete_page(transaction, table, condition, PAGE):
            return n
    transaction.execute(this)
    transaction.execute(delete(Step).where(Step.job_id == job_id))
    transaction.execute(delete(Job).where(Job.id == job_id))
    has_documents = select(Document.id).where(Document.ingest_id == ingest_id).limit(1)
    if transaction.scalar(has_documents) is None:
        transaction.execute(delete(Ingest).where(Ingest.id == ingest_id))
    return 0


def forget_rejections(database: Database, older_than_s: float) -> int:
    """Delete the rejections of readings whose job ended before. Return their number, which each reading keeps."""
    total = 0
    for table in (Rejection, Contender):
        has_some = select(table.ingest_id).where(table.ingest_id == Job.ingest_id).exists()
        with database.read() as transaction:
            ingests = transaction.scalars(select(Job.ingest_id).where(_ended_before(older_than_s), has_some)).all()
        for ingest_id in ingests:
            of_ingest = table.ingest_id == ingest_id
            total += _in_pages(database, partial(delete_page, table=table, condition=of_ingest, size=PAGE))
    return total


def _in_pages(database: Database, page: Callable[[Transaction], int]) -> int:
    total = 0
    while n := database.write(page):
        total += n
    return total
