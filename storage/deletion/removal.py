"""Remove a corpus, or documents of it, with everything that nothing else needs, one page per transaction.

A document, its text and its results are removed in the same transaction. So an interrupted removal leaves no text
without its document, and the same command continues it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from sqlalchemy import delete, func, select, update

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import delete_page, find_corpus, pages
from docmill.storage.core.normalize import normalize
from docmill.storage.core.schema import (
    Contender,
    Corpus,
    Document,
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
from docmill.storage.deletion.dependents import dependents
from docmill.storage.deletion.paging import PAGE, Removed, remove_all, remove_items
from docmill.storage.errors import StorageError
from docmill.storage.pipelines import pipelines
from docmill.storage.steps import job_keys
from docmill.storage.steps.jobs import UNFINISHED, lock_corpus
from docmill.storage.templates import written

SHOWN = 100  # documents named at most


def remove_corpus(database: Database, name: str) -> Removed:
    """Remove a corpus, its documents, ingests and jobs. Raises NotFound, and StorageError while a job runs."""
    corpus_id = find_corpus(database, name)
    return remove_all(database, partial(_remove_page, corpus_id=corpus_id), size=PAGE)


def remove_documents(database: Database, name: str, keys: Collection[str], *, only_vanished: bool = False) -> Removed:
    """Remove documents by their ids, in every version. Unknown ids are ignored.

    With `only_vanished` documents that are in their source again stay. Raises NotFound, and StorageError while a
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

    return remove_items(database, [wanted], work, size=PAGE)


def missing(database: Database, name: str, keys: Collection[str]) -> list[str]:
    """Return the ids that no document of the corpus has in any version. Raises NotFound."""
    corpus_id = find_corpus(database, name)
    with database.read() as transaction:
        found = {row.key for row in _versions(transaction, corpus_id, sorted({*keys}))}
    return [key for key in dict.fromkeys(keys) if key not in found]


def same_texts(database: Database, name: str, keys: Collection[str]) -> list[tuple[str, str]]:
    """Return (corpus, id) of the first other documents that have a text of these documents, in any version.

    Raises NotFound.
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
    """Begin to remove from a corpus; return False if it is gone. Raises StorageError."""
    gc.begin(transaction)
    lock_corpus(transaction, corpus_id)
    name = transaction.scalar(select(Corpus.name).where(Corpus.id == corpus_id))
    # Locked, so that a retry of the job waits for the removal.
    query = select(Job.id, Job.state).where(Job.corpus_id == corpus_id).order_by(Job.id)
    jobs = transaction.execute(transaction.for_update(query)).all()
    if going := [str(job.id) for job in jobs if job.state in UNFINISHED]:
        which = f"job {going[0]} works" if len(going) == 1 else f"jobs {', '.join(going)} work"
        raise StorageError(f"{which} on the corpus {name}; `docmill cancel {going[0]}` ends it")
    transaction.keep_last_ids(Corpus, Ingest, Document, Job, Shard)
    return name is not None


def _remove_page(transaction: Transaction, size: int, *, corpus_id: int) -> Removed | None:
    """Remove the next page of a corpus; return None if nothing is left."""
    if not _begin(transaction, corpus_id):
        return None
    mine = select(Job.id).where(Job.corpus_id == corpus_id)
    for table in (Shard, StepText):
        if n := delete_page(transaction, table, table.job_id.in_(mine), 10 * size):
            return Removed(others=n)
    if n_jobs := _delete_jobs(transaction, corpus_id):
        return Removed(jobs=n_jobs)
    for dependent in dependents():  # before the documents, so that nothing follows each page of them
        if n := dependent.clear_corpus(transaction, corpus_id, 10 * size):
            return Removed(others=n)
    in_corpus = Document.corpus_id == corpus_id
    page = transaction.execute(select(*_VERSION).where(in_corpus).order_by(Document.id).limit(size)).all()
    if page:
        return _remove(transaction, corpus_id, page)
    read = select(Ingest.id).where(Ingest.corpus_id == corpus_id)
    if n := delete_page(transaction, Rejection, Rejection.ingest_id.in_(read), 10 * size):
        return Removed(others=n)
    n_ingests = transaction.execute(delete(Ingest).where(Ingest.corpus_id == corpus_id)).rowcount
    return Removed(
        ingests=n_ingests, others=transaction.execute(delete(Corpus).where(Corpus.id == corpus_id)).rowcount
    )


_VERSION = (Document.id, Document.key, Document.content_id, Document.superseded_by, Document.gone)


def _delete_jobs(transaction: Transaction, corpus_id: int) -> int:
    jobs = transaction.scalars(select(Job.id).where(Job.corpus_id == corpus_id)).all()
    going = update(PipelineRun).where(PipelineRun.job_id.in_(jobs), PipelineRun.finished_at.is_(None))
    transaction.execute(going.values(**pipelines.ended("failed", pipelines.JOB_REMOVED)))
    transaction.execute(update(PipelineRun).where(PipelineRun.job_id.in_(jobs)).values(job_id=None))
    transaction.execute(delete(Step).where(Step.job_id.in_(jobs)))
    job_keys.forget_arguments(transaction, jobs)
    gc.forget_counts(transaction, jobs)
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

    Features follow (`dependents`).
    """
    ids = [row.id for row in documents]
    texts = {row.content_id for row in documents}
    following = [dependent.removing(transaction, ids) for dependent in dependents()]
    for first in range(0, len(ids), PAGE):
        page = ids[first : first + PAGE]
        transaction.execute(delete(Contender).where(Contender.document_id.in_(page)))
        of_these = delete(Prompt).where(Prompt.document_id.in_(page)).returning(Prompt.content_id)
        texts |= {*transaction.scalars(of_these)}
        transaction.execute(delete(Document).where(Document.id.in_(page)))
    for follow in following:
        follow()
    collected = gc.collect_of(transaction, texts)
    return Removed(documents=len(ids)) + collected


def settle(database: Database) -> bool:
    """Empty a SQLite file's journal, which still holds what was removed. Return False if a reader prevented it."""
    if database.server is not None:
        return True
    with database.idle() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        is_busy: int = cursor.fetchone()[0]
    return not is_busy


READ_PAGE = 5_000
_PREFIX = "meta."


class ConditionInvalid(StorageError):
    """A condition is written meta.FIELD=VALUE."""


@dataclass(frozen=True)
class Condition:
    """A field of the metadata has this value. Numbers and lists are compared in the form that a prompt would have."""

    field: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Return the condition in `meta.FIELD=VALUE`. Raises ConditionInvalid."""
        name, equals, value = text.partition("=")
        field = name.removeprefix(_PREFIX)
        if not equals or field == name or not field:
            raise ConditionInvalid(f"{text!r} is not meta.FIELD=VALUE, such as meta.customer=4711")
        return cls(normalize(field)[0], normalize(value)[0])

    def __str__(self) -> str:
        return f"{_PREFIX}{self.field}={self.value}"

    def holds(self, meta: Mapping[str, Any]) -> bool:
        """Return True if the metadata have the field with this value. Null is no value."""
        found = meta.get(self.field)
        return found is not None and written(found) == self.value


def select_keys(
    database: Database, name: str, conditions: Collection[Condition] = (), *, only_vanished: bool = False
) -> list[str]:
    """Return the ids of a corpus's documents with a version that meets all conditions, in order.

    With `only_vanished` only documents that vanished from their source. Raises NotFound.
    """
    corpus_id = find_corpus(database, name)
    chosen = set[str]()
    vanished = set[str]()
    for row in _read_versions(database, corpus_id, only_gone=only_vanished and not conditions):
        if row.gone and row.superseded_by is None:
            vanished.add(row.key)
        if all(condition.holds(row.meta) for condition in conditions):
            chosen.add(row.key)
    return sorted(chosen & vanished if only_vanished else chosen)


def _read_versions(database: Database, corpus_id: int, *, only_gone: bool) -> Iterator[Any]:
    columns = (Document.id, Document.key, Document.meta, Document.gone, Document.superseded_by)
    query = select(*columns).where(Document.corpus_id == corpus_id)
    if only_gone:
        query = query.where(Document.gone, Document.superseded_by.is_(None))
    return chain.from_iterable(pages(database, query, Document.id, READ_PAGE))


def count_vanished(database: Database) -> dict[str, int]:
    """Return the number of vanished documents that the store keeps, by corpus; corpora without any are left out."""
    query = (
        select(Corpus.name, func.count().label("n"))
        .join(Document, Document.corpus_id == Corpus.id)
        .where(Document.gone, Document.superseded_by.is_(None))
        .group_by(Corpus.name)
        .order_by(Corpus.name)
    )
    with database.read() as transaction:
        return {row.name: row.n for row in transaction.execute(query)}
