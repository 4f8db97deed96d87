"""Corpora as they stand, from kept counts, and the corpora and jobs that have a document."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import find_corpus
from docmill.storage.core.schema import AnyRow, Corpus, Document, Ingest, Job, Step
from docmill.storage.core.specs import Spec
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import NotFound
from docmill.storage.results.status import JobStatus, read_status
from docmill.storage.steps.lineage import visible

LATEST = 20  # ingests and jobs that are shown


@dataclass(frozen=True)
class SpecCounts:
    """The latest job of a spec over a corpus, with the number of unique texts by status."""

    spec_id: int
    spec: Spec
    job: int
    done: int
    failed: int
    skipped: int
    pending: int


@dataclass(frozen=True)
class IngestCounts:
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

    name: str
    documents: int
    created_at: float
    specs: tuple[SpecCounts, ...]
    ingests: tuple[IngestCounts, ...]
    jobs: tuple[JobStatus, ...]


def list_corpora(database: Database) -> list[CorpusState]:
    """Return all corpora by name, each with its last ingest and no jobs; without those that are removed meanwhile."""
    states = []
    for name in list(database.values(select(Corpus.name).order_by(Corpus.name))):
        with suppress(NotFound):
            states.append(_state(database, name, ingests=1, jobs=0))
    return states


def read_corpus(database: Database, name: str) -> CorpusState:
    """Return a corpus with its latest ingests and jobs. Raises NotFound."""
    return _state(database, name, ingests=LATEST, jobs=LATEST)


def _state(database: Database, name: str, *, ingests: int, jobs: int) -> CorpusState:
    corpus_id = find_corpus(database, name)
    with database.read() as transaction:
        corpus = transaction.execute(select(Corpus).where(Corpus.id == corpus_id)).one()
        of_corpus = select(*_INGEST).where(Ingest.corpus_id == corpus_id).order_by(Ingest.id.desc()).limit(ingests)
        readings = tuple(IngestCounts(*row) for row in transaction.execute(of_corpus))
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
    statuses = {}
    for job_id in {*latest, *(row.job for row in of_spec)}:
        with suppress(NotFound):  # it was removed meanwhile
            statuses[job_id] = read_status(database, job_id)
    specs = []
    for row in of_spec:
        if row.job not in statuses:
            continue
        step = statuses[row.job].computing[places[row.job, row.spec_id]]
        counts = (step.done, step.failed, step.skipped, step.pending)
        specs.append(SpecCounts(row.spec_id, step.spec, row.job, *counts))
    return CorpusState(
        name=corpus.name,
        documents=corpus.n_documents,
        created_at=corpus.created_at,
        specs=tuple(specs),
        ingests=readings,
        jobs=tuple(statuses[job_id] for job_id in latest if job_id in statuses),
    )


# The columns of `IngestCounts`.
_INGEST: tuple[ColumnElement[Any], ...] = (
    *(Ingest.id, Ingest.source, Ingest.state, Ingest.n_records, Ingest.n_new, Ingest.n_changed, Ingest.n_unchanged),
    *(Ingest.n_rejected, Ingest.n_vanished, Ingest.not_pruned, Ingest.started_at, Ingest.finished_at),
)


CORPORA = 20
JOBS = 20  # of a corpus, the latest


@dataclass(frozen=True)
class Appearance:
    """A document of a corpus, as it was read last, and the latest jobs that see one of its versions.

    `gone` is True if the source no longer has the document. `read_at` is in seconds since 1970. The search examined
    the latest `looked_at` jobs of the corpus; `has_older_jobs` is True if the corpus has more.
    """

    corpus: str
    document: str
    source: str
    read_at: float
    gone: bool
    jobs: tuple[Job, ...]
    looked_at: int
    has_older_jobs: bool


def find_documents(database: Database, key: str, corpus: str | None = None) -> list[Appearance]:
    """Return the documents with exactly this id: of the first `CORPORA` corpora that have one, or of one corpus."""
    corpora = select(Corpus.id) if corpus is None else select(Corpus.id).where(Corpus.name == corpus)
    # Sought in each corpus, since the indexes of documents begin with it.
    current = (
        select(Document.id, Document.corpus_id, Document.gone, Document.ingest_id)
        .where(Document.key == key, Document.superseded_by.is_(None), Document.corpus_id.in_(corpora))
        .order_by(Document.corpus_id)
        .limit(CORPORA)
    )
    with database.read() as transaction:
        transaction.prefer_indexes()
        appearances = [_appearance(transaction, key, row) for row in transaction.execute(current).all()]
    return sorted(appearances, key=lambda appearance: appearance.corpus)


def _appearance(transaction: Transaction, key: str, current: AnyRow) -> Appearance:
    of_corpus = select(Job).where(Job.corpus_id == current.corpus_id).order_by(Job.id.desc()).limit(JOBS + 1)
    latest = [Job.of(row) for row in transaction.execute(of_corpus)]
    version = select(Document.id).where(Document.key == key)
    # The current version and superseded ones are sought apart, since each have an index of their own.
    kinds = (Document.superseded_by.is_(None), Document.superseded_by.is_not(None))
    is_seen = [or_(*(version.where(visible(job), kind).exists() for kind in kinds)) for job in latest[:JOBS]]
    answers = transaction.execute(select(*is_seen)).one() if is_seen else ()
    read = transaction.execute(select(Ingest.source, Ingest.started_at).where(Ingest.id == current.ingest_id)).one()
    return Appearance(
        corpus=transaction.scalar(select(Corpus.name).where(Corpus.id == current.corpus_id)) or "",
        document=key,
        source=read.source,
        read_at=read.started_at,
        gone=current.gone,
        jobs=tuple(job for job, is_shown in zip(latest, answers, strict=False) if is_shown),
        looked_at=min(len(latest), JOBS),
        has_older_jobs=len(latest) > JOBS,
    )
