"""Remove a corpus, or documents of it, with everything that nothing else needs, one page per transaction.

A document, its text and its results are removed in the same transaction. So an interrupted removal leaves no text
without its document, and the same command continues it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import delete, select, update

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import delete_page, find_corpus
from docmill.storage.core.schema import (
    Contender,
    Corpus,
    Deduplication,
    Document,
    Duplicate,
    Ingest,
    Job,
    PipelineRun,
    Prompt,
    Rejection,
    Shard,
    Step,
    StepText,
)
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion import gc
from docmill.storage.deletion.kept_counts import forget_counts
from docmill.storage.duplicates import promotion
from docmill.storage.errors import CorpusInUse
from docmill.storage.pipelines import pipelines
from docmill.storage.steps import job_keys
from docmill.storage.steps.jobs import UNFINISHED, lock_corpus

PAGE = 500
SHOWN = 100  # documents named at most


@dataclass(frozen=True)
class Removed:
    """The number of removed rows. `documents` are versions; nothing else needed the `contents` and `outcomes`."""

    documents: int = 0
    contents: int = 0
    outcomes: int = 0
    jobs: int = 0
    ingests: int = 0

    def __add__(self, other: Removed) -> Removed:
        return Removed(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Removed)))


def remove_corpus(database: Database, name: str) -> Removed:
    """Remove a corpus, its documents, ingests and jobs. Raises NoSuchCorpus, and CorpusInUse while a job runs."""
    corpus_id = find_corpus(database, name)
    total, more = Removed(), True
    while more:
        removed, more = database.write(lambda transaction: _page(transaction, corpus_id))
        total += removed
    return total


def remove_documents(database: Database, name: str, keys: Collection[str], *, only_vanished: bool = False) -> Removed:
    """Remove documents by their ids, in every version. Unknown ids are ignored.

    With `only_vanished` documents that are in their source again stay. Raises NoSuchCorpus, and CorpusInUse while a
    job runs.
    """
    corpus_id, wanted = find_corpus(database, name), sorted({*keys})

    def work(transaction: Transaction, page: Sequence[str]) -> Removed:
        if not _begin(transaction, corpus_id):
            return Removed()
        versions = _versions(transaction, corpus_id, page)
        if only_vanished:
            vanished = {row.key for row in versions if row.gone and row.superseded_by is None}
            versions = [row for row in versions if row.key in vanished]
        return _remove(transaction, corpus_id, versions)

    total = Removed()
    for first in range(0, len(wanted), PAGE):
        page = wanted[first : first + PAGE]
        total += database.write(lambda transaction, page=page: work(transaction, page))  # type: ignore[misc]
    return total


def missing(database: Database, name: str, keys: Collection[str]) -> list[str]:
    """Return the ids that no document of the corpus has in any version. Raises NoSuchCorpus."""
    corpus_id = find_corpus(database, name)
    with database.read() as transaction:
        found = {row.key for row in _versions(transaction, corpus_id, sorted({*keys}))}
    return [key for key in dict.fromkeys(keys) if key not in found]


def same_texts(database: Database, name: str, keys: Collection[str]) -> list[tuple[str, str]]:
    """Return (corpus, id) of the first other documents that have a text of these documents, in any version.

    Raises NoSuchCorpus.
    """
    corpus_id, wanted = find_corpus(database, name), sorted({*keys})
    columns = Corpus.name, Document.key, Document.corpus_id
    query = select(*columns).join(Corpus, Corpus.id == Document.corpus_id).distinct()
    others = set[tuple[str, str]]()
    with database.read() as transaction:
        for first in range(0, len(wanted), PAGE):
            versions = _versions(transaction, corpus_id, wanted[first : first + PAGE])
            rows = transaction.probe(query, Document.content_id, sorted({row.content_id for row in versions}))
            others |= {(row.name, row.key) for row in rows if row.corpus_id != corpus_id or row.key not in {*wanted}}
            if len(others) >= SHOWN:
                break
    return sorted(others)[:SHOWN]


def _begin(transaction: Transaction, corpus_id: int) -> bool:
    """Begin to remove from a corpus; return False if it is gone. Raises CorpusInUse."""
    gc.begin(transaction)
    lock_corpus(transaction, corpus_id)
    name = transaction.scalar(select(Corpus.name).where(Corpus.id == corpus_id))
    # Locked, so that a retry of the job waits for the removal.
    query = select(Job.id, Job.state).where(Job.corpus_id == corpus_id).order_by(Job.id)
    jobs = transaction.execute(transaction.for_update(query)).all()
    if going := [str(job.id) for job in jobs if job.state in UNFINISHED]:
        which = f"job {going[0]} works" if len(going) == 1 else f"jobs {', '.join(going)} work"
        raise CorpusInUse(f"{which} on the corpus {name}; `docmill cancel {going[0]}` ends it")
    transaction.keep_last_ids(Corpus, Ingest, Document, Job, Shard)
    return name is not None


def _page(transaction: Transaction, corpus_id: int) -> tuple[Removed, bool]:
    """Remove the next page of a corpus. Return also if there is more."""
    if not _begin(transaction, corpus_id):
        return Removed(), False
    mine = select(Job.id).where(Job.corpus_id == corpus_id)
    if delete_page(transaction, Shard, Shard.job_id.in_(mine), 10 * PAGE):
        return Removed(), True
    if delete_page(transaction, StepText, StepText.job_id.in_(mine), 10 * PAGE):
        return Removed(), True
    if n_jobs := _delete_jobs(transaction, corpus_id):
        return Removed(jobs=n_jobs), True
    # Before the documents: else each page would promote the next document of a large cluster.
    transaction.execute(delete(Deduplication).where(Deduplication.corpus_id == corpus_id))
    if delete_page(transaction, Duplicate, Duplicate.corpus_id == corpus_id, 10 * PAGE):
        return Removed(), True
    in_corpus = Document.corpus_id == corpus_id
    page = transaction.execute(select(*_VERSION).where(in_corpus).order_by(Document.id).limit(PAGE)).all()
    if page:
        return _remove(transaction, corpus_id, page), True
    read = select(Ingest.id).where(Ingest.corpus_id == corpus_id)
    if delete_page(transaction, Rejection, Rejection.ingest_id.in_(read), 10 * PAGE):
        return Removed(), True
    n_ingests = transaction.execute(delete(Ingest).where(Ingest.corpus_id == corpus_id)).rowcount
    transaction.execute(delete(Corpus).where(Corpus.id == corpus_id))
    return Removed(ingests=n_ingests), False


_VERSION = (Document.id, Document.key, Document.content_id, Document.superseded_by, Document.gone)


def _delete_jobs(transaction: Transaction, corpus_id: int) -> int:
    jobs = transaction.scalars(select(Job.id).where(Job.corpus_id == corpus_id)).all()
    going = update(PipelineRun).where(PipelineRun.job_id.in_(jobs), PipelineRun.finished_at.is_(None))
    transaction.execute(going.values(**pipelines.ended("failed", pipelines.JOB_REMOVED)))
    transaction.execute(update(PipelineRun).where(PipelineRun.job_id.in_(jobs)).values(job_id=None))
    transaction.execute(delete(Step).where(Step.job_id.in_(jobs)))
    job_keys.forget_arguments(transaction, jobs)
    forget_counts(transaction, jobs)
    return transaction.execute(delete(Job).where(Job.id.in_(jobs))).rowcount


def _versions(transaction: Transaction, corpus_id: int, keys: Collection[str]) -> list[Any]:
    """Return the documents with these keys, superseded ones included. Each sort has its own index."""
    found: list[Any] = []
    for is_version in (Document.superseded_by.is_(None), Document.superseded_by.is_not(None)):
        query = select(*_VERSION).where(Document.corpus_id == corpus_id, is_version)
        found += transaction.probe(query, Document.key, keys)
    return found


def _remove(transaction: Transaction, corpus_id: int, documents: Sequence[Any]) -> Removed:
    n_current = sum(row.superseded_by is None and not row.gone for row in documents)  # as in the corpus's count
    transaction.execute(
        update(Corpus).where(Corpus.id == corpus_id).values(n_documents=Corpus.n_documents - n_current)
    )
    return remove_rows(transaction, documents)


def remove_rows(transaction: Transaction, documents: Sequence[Any]) -> Removed:
    """Remove rows of documents (`id`, `content_id`), in a transaction that `gc.begin` began.

    If a document was the first of near duplicates, the next one becomes the first.
    """
    ids = [row.id for row in documents]
    texts = {row.content_id for row in documents}
    losing = promotion.clusters_of(transaction, ids)
    for first in range(0, len(ids), PAGE):
        page = ids[first : first + PAGE]
        transaction.execute(delete(Contender).where(Contender.document_id.in_(page)))
        of_these = delete(Prompt).where(Prompt.document_id.in_(page)).returning(Prompt.content_id)
        texts |= {*transaction.scalars(of_these)}
        transaction.execute(delete(Document).where(Document.id.in_(page)))
    promotion.promote(transaction, losing)
    collected = gc.collect_of(transaction, texts)
    return Removed(len(ids), collected.contents, collected.outcomes)


def settle(database: Database) -> bool:
    """Empty a SQLite file's journal, which still holds what was removed. Return False if a reader prevented it."""
    if database.server is not None:
        return True
    with database.idle() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        is_busy: int = cursor.fetchone()[0]
    return not is_busy
