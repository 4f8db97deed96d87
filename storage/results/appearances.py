"""Documents with an id: their source in each corpus, and the latest jobs that see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Corpus, Document, Ingest, Job
from docmill.storage.core.transaction import Transaction

CORPORA = 20
JOBS = 20  # of a corpus, the latest
VERSIONS = 50  # of a document, the latest


@dataclass(frozen=True)
class SeenBy:
    """A job that sees a document, with its state."""

    job: int
    state: str


@dataclass(frozen=True)
class Appearance:
    """A document of a corpus, as it was read last, and the latest jobs that see one of its versions.

    `gone`: its source has it no more. `read_at` is in seconds since 1970. `looked_at` jobs of the corpus, the latest,
    were looked through; `has_older_jobs`: there are more.
    """

    corpus: str
    document: str
    source: str
    read_at: float
    gone: bool
    jobs: tuple[SeenBy, ...]
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
        transaction.look_up()
        found = [_appearance(transaction, key, row) for row in transaction.execute(current).all()]
    return sorted(found, key=lambda one: one.corpus)


def _appearance(transaction: Transaction, key: str, current: Row[*tuple[Any, ...]]) -> Appearance:
    of_corpus = Document.corpus_id == current.corpus_id
    superseded = transaction.execute(
        select(Document.id, Document.superseded_by, Document.gone)
        .where(of_corpus, Document.key == key, Document.superseded_by.is_not(None))
        .order_by(Document.id.desc())
        .limit(VERSIONS)
    ).all()
    versions = [(one.id, one.superseded_by, one.gone) for one in superseded]
    versions.append((current.id, None, current.gone))
    latest = transaction.execute(
        select(Job.id, Job.state, Job.last_document)
        .where(Job.corpus_id == current.corpus_id)
        .order_by(Job.id.desc())
        .limit(JOBS + 1)
    ).all()
    seen = [
        SeenBy(job.id, job.state)
        for job in latest[:JOBS]
        if any(sees(job.last_document, *version) for version in versions)
    ]
    read = transaction.execute(select(Ingest.source, Ingest.started_at).where(Ingest.id == current.ingest_id)).one()
    return Appearance(
        corpus=transaction.scalar(select(Corpus.name).where(Corpus.id == current.corpus_id)) or "",
        document=key,
        source=read.source,
        read_at=read.started_at,
        gone=current.gone,
        jobs=tuple(seen),
        looked_at=min(len(latest), JOBS),
        has_older_jobs=len(latest) > JOBS,
    )


def sees(last_document: int | None, document: int, superseded_by: int | None, gone: bool) -> bool:
    """Return True if a job sees a version of a document, by the rule of `storage.steps.lineage.visible`."""
    if last_document is None:
        return superseded_by is None and not gone
    return not gone and document <= last_document and (superseded_by is None or superseded_by > last_document)
