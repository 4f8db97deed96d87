"""Corpora as they stand, from the counts that ingests, jobs and shards keep: no document is counted."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import find_corpus
from docmill.storage.core.schema import Corpus, Ingest, Job, Step
from docmill.storage.core.transaction import Transaction
from docmill.storage.results.status import JobStatus, StepStatus, read_status

LATEST = 20  # ingests and jobs that are shown


@dataclass(frozen=True)
class Computed:
    """The latest job of a spec over a corpus, with the number of unique texts by status."""

    spec_id: int
    spec: str
    job: int
    done: int
    failed: int
    skipped: int
    pending: int


@dataclass(frozen=True)
class Reading:
    """An ingest and its counts. Its state is reading or read."""

    id: int
    source: str
    state: str
    records: int
    new: int
    changed: int
    unchanged: int
    rejected: int
    vanished: int
    not_pruned: str | None
    started_at: float
    finished_at: float | None


@dataclass(frozen=True)
class CorpusState:
    """A corpus at one moment. `documents` are its current ones; the latest `ingests` and `jobs` come first."""

    id: int
    name: str
    documents: int
    created_at: float
    specs: tuple[Computed, ...]
    ingests: tuple[Reading, ...]
    jobs: tuple[JobStatus, ...]


def every(database: Database) -> list[CorpusState]:
    """All corpora by name, each with its last ingest and no jobs."""
    with database.read() as transaction:
        names = list(transaction.scalars(select(Corpus.name).order_by(Corpus.name)))
    return [_state(database, name, ingests=1, jobs=0) for name in names]


def show(database: Database, name: str) -> CorpusState:
    """One corpus with its latest ingests and jobs. Raises NoSuchCorpus."""
    return _state(database, name, ingests=LATEST, jobs=LATEST)


def _state(database: Database, name: str, *, ingests: int, jobs: int) -> CorpusState:
    corpus_id = find_corpus(database, name)
    with database.read() as transaction:
        corpus = transaction.execute(select(Corpus).where(Corpus.id == corpus_id)).one()
        readings = _readings(transaction, corpus_id, ingests)
        query = select(Job.id).where(Job.corpus_id == corpus_id).order_by(Job.id.desc()).limit(jobs)
        latest = list(transaction.scalars(query))
        of_spec = transaction.execute(
            select(Step.spec_id, func.max(Job.id).label("job"))
            .join(Job, Job.id == Step.job_id)
            .where(Job.corpus_id == corpus_id)
            .group_by(Step.spec_id)
            .order_by(Step.spec_id)
        ).all()
        places = {
            (row.job_id, row.spec_id): row.seq
            for row in transaction.execute(select(Step).where(Step.job_id.in_({row.job for row in of_spec})))
        }
    statuses = {job_id: read_status(database, job_id) for job_id in {*latest, *(row.job for row in of_spec)}}
    return CorpusState(
        id=corpus.id,
        name=corpus.name,
        documents=corpus.n_documents,
        created_at=corpus.created_at,
        specs=tuple(
            _computed(row.spec_id, row.job, statuses[row.job].computing[places[row.job, row.spec_id]])
            for row in of_spec
        ),
        ingests=readings,
        jobs=tuple(statuses[job_id] for job_id in latest),
    )


def _readings(transaction: Transaction, corpus_id: int, limit: int) -> tuple[Reading, ...]:
    query = select(Ingest).where(Ingest.corpus_id == corpus_id).order_by(Ingest.id.desc()).limit(limit)
    return tuple(
        Reading(
            id=row.id,
            source=row.source,
            state=row.state,
            records=row.n_records,
            new=row.n_new,
            changed=row.n_changed,
            unchanged=row.n_unchanged,
            rejected=row.n_rejected,
            vanished=row.n_vanished,
            not_pruned=row.not_pruned,
            started_at=row.started_at,
            finished_at=row.finished_at,
        )
        for row in transaction.execute(query)
    )


def _computed(spec_id: int, job_id: int, step: StepStatus) -> Computed:
    return Computed(spec_id, str(step.spec), job_id, step.done, step.failed, step.skipped, step.pending)
