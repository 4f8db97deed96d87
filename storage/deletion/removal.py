"""Remove a corpus, documents of it or superseded versions, with all that nothing else needs, page by page.

A document, its text and its results are removed in the same transaction. So an interrupted removal leaves no text
without its document, and the same command continues it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Select, and_, delete, func, not_, or_, select, tuple_, update

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import count_rows, delete_page, find_corpus, pages
from docmill.storage.core.normalize import normalize
from docmill.storage.core.schema import (
    Contender,
    Content,
    Corpus,
    Document,
    Ingest,
    Job,
    OutcomeRow,
    PipelineRun,
    Prompt,
    RejectionRow,
    Shard,
    ShardCount,
    Step,
    StepText,
    db_now,
)
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion import gc
from docmill.storage.deletion.needed import dependents
from docmill.storage.deletion.paging import PAGE, RemovalBudget, Removed, remove_all, remove_items
from docmill.storage.errors import StorageError
from docmill.storage.pipelines import pipelines
from docmill.storage.search import pgvector_index
from docmill.storage.steps import budgets
from docmill.storage.steps.jobs import UNFINISHED, forget_arguments, lock_corpus
from docmill.storage.templates import written

SHOWN = 100  # documents named at most


def remove_corpus(database: Database, name: str) -> Removed:
    """Remove a corpus, its documents, ingests and jobs. Raises NotFound, and StorageError while a job runs."""
    corpus_id = find_corpus(database, name)
    return remove_all(database, partial(_remove_page, corpus_id=corpus_id), PAGE)


def remove_documents(database: Database, name: str, keys: Collection[str], *, only_vanished: bool = False) -> Removed:
    """Remove documents by their ids, in every version. Unknown ids are ignored.

    With `only_vanished` documents that are in their source again stay. Raises NotFound, and StorageError while a
    job runs.
    """
    corpus_id, wanted = find_corpus(database, name), sorted({*keys})

    def work(page: Sequence[str], transaction: Transaction) -> Removed:
        if not _begin(transaction, corpus_id):
            return Removed()
        versions = _read_versions(transaction, corpus_id, page)
        if only_vanished:
            vanished = {row.key for row in versions if row.gone and row.superseded_by is None}
            versions = [row for row in versions if row.key in vanished]
        return _remove(transaction, corpus_id, versions)

    return remove_items(database, [wanted], work)


def find_unknown_keys(database: Database, name: str, keys: Collection[str]) -> list[str]:
    """Return the ids that no document of the corpus has in any version. Raises NotFound."""
    corpus_id = find_corpus(database, name)
    with database.read() as transaction:
        known = {row.key for row in _read_versions(transaction, corpus_id, sorted({*keys}))}
    return [key for key in dict.fromkeys(keys) if key not in known]


def find_same_texts(database: Database, name: str, keys: Collection[str]) -> list[tuple[str, str]]:
    """Return (corpus, id) of the first other documents that have a text of these documents, in any version.

    Raises NotFound.
    """
    corpus_id, wanted = find_corpus(database, name), sorted({*keys})
    columns = Corpus.name, Document.key, Document.corpus_id
    query = select(*columns).join(Corpus, Corpus.id == Document.corpus_id).distinct()
    others = set[tuple[str, str]]()
    with database.read() as transaction:
        for first in range(0, len(wanted), PAGE):
            versions = _read_versions(transaction, corpus_id, wanted[first : first + PAGE])
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


def _remove_page(size: int, transaction: Transaction, *, corpus_id: int) -> Removed | None:
    """Remove the next page of a corpus; return None if nothing is left."""
    if not _begin(transaction, corpus_id):
        return None
    mine = select(Job.id).where(Job.corpus_id == corpus_id)
    # Noted before their rows go: should the removal be interrupted, a retry would find only some of them.
    kept = update(Job).where(Job.corpus_id == corpus_id, Job.forgotten_at.is_(None))
    transaction.execute(kept.values(forgotten_at=db_now()))
    for table in (Shard, StepText):
        if n := delete_page(transaction, table, table.job_id.in_(mine), 10 * size):
            return Removed(others=n)
    if n_jobs := _delete_jobs(transaction, corpus_id, size):
        return Removed(jobs=n_jobs)
    for dependent in dependents():  # before the documents, so that nothing follows each page of them
        if n := dependent.clear_corpus(transaction, corpus_id, 10 * size):
            return Removed(others=n)
    in_corpus = Document.corpus_id == corpus_id
    page = transaction.execute(select(*_VERSION).where(in_corpus).order_by(Document.id).limit(size)).all()
    if page:
        return _remove(transaction, corpus_id, page)
    read = select(Ingest.id).where(Ingest.corpus_id == corpus_id)
    if n := delete_page(transaction, RejectionRow, RejectionRow.ingest_id.in_(read), 10 * size):
        return Removed(others=n)
    if n := delete_page(transaction, Ingest, Ingest.corpus_id == corpus_id, size):
        return Removed(ingests=n)
    return Removed(others=transaction.execute(delete(Corpus).where(Corpus.id == corpus_id)).rowcount)


_VERSION = (Document.id, Document.key, Document.content_id, Document.superseded_by, Document.gone)


def _delete_jobs(transaction: Transaction, corpus_id: int, size: int) -> int:
    jobs = transaction.scalars(select(Job.id).where(Job.corpus_id == corpus_id).limit(size)).all()
    going = update(PipelineRun).where(PipelineRun.job_id.in_(jobs), PipelineRun.finished_at.is_(None))
    transaction.execute(going.values(**pipelines.ended("failed", pipelines.JOB_REMOVED)))
    transaction.execute(update(PipelineRun).where(PipelineRun.job_id.in_(jobs)).values(job_id=None))
    return delete_jobs(transaction, jobs)


def delete_jobs(transaction: Transaction, job_ids: Collection[int]) -> int:
    """Delete jobs without shards, and the rows that belong only to them. Return the number of jobs."""
    transaction.execute(delete(Step).where(Step.job_id.in_(job_ids)))
    forget_arguments(transaction, job_ids)
    budgets.forget(transaction, job_ids)
    transaction.execute(delete(ShardCount).where(ShardCount.job_id.in_(job_ids)))  # these are zero by now
    return transaction.execute(delete(Job).where(Job.id.in_(job_ids))).rowcount


def _read_versions(transaction: Transaction, corpus_id: int, keys: Collection[str]) -> list[Any]:
    """Return the documents with these keys, superseded ones included. Each sort has its own index."""
    versions: list[Any] = []
    for is_version in (Document.superseded_by.is_(None), Document.superseded_by.is_not(None)):
        query = select(*_VERSION).where(Document.corpus_id == corpus_id, is_version)
        versions += transaction.probe(query, Document.key, keys)
    return versions


def _remove(transaction: Transaction, corpus_id: int, documents: Sequence[Any]) -> Removed:
    n_current = sum(row.superseded_by is None and not row.gone for row in documents)  # as in the corpus's count
    transaction.execute(
        update(Corpus).where(Corpus.id == corpus_id).values(n_documents=Corpus.n_documents - n_current)
    )
    removed, n_documents = remove_rows(transaction, documents), sum(row.superseded_by is None for row in documents)
    return replace(removed, documents=n_documents, others=len(documents) - n_documents)


def remove_rows(transaction: Transaction, documents: Sequence[Any]) -> Removed:
    """Remove rows of documents (`id`, `content_id`), in a transaction that `gc.begin` began.

    Features remove their rows, too (`dependents`).
    """
    ids = [row.id for row in documents]
    texts = {row.content_id for row in documents}
    following = [dependent.removing(transaction, ids) for dependent in dependents()]
    for first in range(0, len(ids), PAGE):
        page = ids[first : first + PAGE]
        corpora = select(Document.corpus_id).where(Document.id.in_(page))
        shown = select(Step.spec_id).join(Job, Job.id == Step.job_id).where(Job.corpus_id.in_(corpora)).distinct()
        gc.note_dropped(transaction, {*transaction.scalars(shown)})
        transaction.execute(delete(Contender).where(Contender.document_id.in_(page)))
        of_these = delete(Prompt).where(Prompt.document_id.in_(page)).returning(Prompt.content_id)
        texts |= {*transaction.scalars(of_these)}
        transaction.execute(delete(Document).where(Document.id.in_(page)))
    for follow in following:
        follow()
    collected = gc.collect_of(transaction, texts)
    return Removed(documents=len(ids)) + collected


def settle(database: Database) -> bool:
    """Empty a SQLite file's journal, which still has the removed rows. Return False if a reader prevents it."""
    if database.server is not None:
        return True
    with database.idle() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        is_busy: int = cursor.fetchone()[0]
    return not is_busy


# Superseded versions of documents, and readings that nothing refers to any more. The current version needs a version
# that the same reading brought: the source has a key twice, and the next reading must know which record lost (see
# `storage.ingest.ingest`). A job needs the versions that were current when it was opened, until it has ended and its
# results are written. Later, its `results` lack documents whose version was removed.

LOOK = 5_000  # superseded versions examined in one transaction


def count_versions(transaction: Transaction, older_than_s: float) -> Removed:
    """Return the numbers of versions (`documents`) and readings (`ingests`) that `remove_versions` would remove."""
    goes = are_removable(older_than_s)
    readings = count_rows(transaction, Ingest, _is_unneeded(older_than_s, not_(goes)))
    return Removed(documents=count_rows(transaction, Document, goes), ingests=readings)


def count_readings(transaction: Transaction, older_than_s: float, jobs: Select[int | None]) -> int:
    """Return the number of readings that `remove_readings` would remove once these jobs are gone."""
    return count_rows(transaction, Ingest, _is_unneeded(older_than_s, jobs=jobs))


def remove_versions(database: Database, older_than_s: float, budget: RemovalBudget | None = None) -> Removed:
    """Remove versions that were superseded long ago, then unneeded contents, then readings."""
    budget = budget or RemovalBudget()
    query = select(Document.id, are_removable(older_than_s).label("goes")).where(Document.superseded_by.is_not(None))
    ids = ([version.id for version in page if version.goes] for page in pages(database, query, Document.id, LOOK))
    removed = remove_items(database, ids, partial(_remove_versions, older_than_s=older_than_s), budget)
    return removed + remove_readings(database, older_than_s, budget)


def remove_readings(database: Database, older_than_s: float, budget: RemovalBudget | None = None) -> Removed:
    """Remove old readings that nothing needs."""
    unneeded = select(Ingest.id).where(_is_unneeded(older_than_s)).order_by(Ingest.id)
    return remove_items(database, [database.values(unneeded)], _remove_readings, budget)


def _remove_versions(ids: Sequence[int], transaction: Transaction, *, older_than_s: float) -> Removed:
    # The corpus is not locked: a reading holds that lock while it waits for this transaction, and no reading
    # makes a removable version needed again.
    gc.begin(transaction)
    transaction.keep_last_ids(Document)
    still = and_(Document.id.in_(ids), are_removable(older_than_s))
    versions = transaction.execute(select(Document.id, Document.content_id).where(still)).all()
    return remove_rows(transaction, versions)


def _remove_readings(ids: Sequence[int], transaction: Transaction) -> Removed:
    transaction.keep_last_ids(Ingest)
    return Removed(ingests=transaction.execute(delete(Ingest).where(Ingest.id.in_(ids))).rowcount)


def are_removable(older_than_s: float) -> ColumnElement[bool]:
    """Return the condition for a version that was superseded long ago and that nothing needs."""
    current = Document.__table__.alias("current_version").c
    brought_both = select(current.id).where(
        current.corpus_id == Document.corpus_id,
        current.key == Document.key,
        current.superseded_by.is_(None),
        current.ingest_id == Document.ingest_id,
    )
    goes_on = or_(Job.state.in_(UNFINISHED), pipelines.holds_job())
    opened_before = _superseded_since(Job.created_at).correlate(Document, Job).exists()
    needed = select(Job.id).where(Job.corpus_id == Document.corpus_id, goes_on, opened_before)
    return and_(
        Document.superseded_by.is_not(None),
        ~_superseded_since(db_now() - older_than_s).correlate(Document).exists(),
        ~brought_both.correlate(Document).exists(),
        ~needed.correlate(Document).exists(),
    )


def _superseded_since(since: ColumnElement[float]) -> Select[int]:
    """Return a query for the document that superseded another, if its reading was read since.

    It finds nothing if that document was removed: then the superseded document is older still.
    """
    later, reading = Document.__table__.alias("later_version").c, Ingest.__table__.alias("later_reading").c
    read_at = func.coalesce(reading.finished_at, reading.seen_at)
    query = select(later.id).join_from(later.id.table, reading.id.table, reading.id == later.ingest_id)
    return query.where(later.id == Document.superseded_by, read_at > since)


def _is_unneeded(
    older_than_s: float, staying: ColumnElement[bool] | None = None, jobs: Select[int | None] | None = None
) -> ColumnElement[bool]:
    """Return the condition for a reading that ended long ago and has no job, rejection or document.

    `staying` is the condition for superseded documents to count; by default all do. `jobs` do not count, nor do
    their rejections.
    """
    read_at = func.coalesce(Ingest.finished_at, Ingest.seen_at)
    referring = [
        select(table.ingest_id).where(table.ingest_id == Ingest.id) for table in (Job, RejectionRow, Contender)
    ]
    unneeded = and_(*(~query.correlate(Ingest).exists() for query in referring))
    if jobs is not None:  # each has a reading of its own
        unneeded = or_(unneeded, Ingest.id.in_(select(Job.ingest_id).where(Job.id.in_(jobs))))
    has_documents = select(Document.id).where(Document.ingest_id == Ingest.id)
    if staying is not None:
        has_documents = has_documents.where(or_(Document.superseded_by.is_(None), staying))
    return and_(read_at <= db_now() - older_than_s, unneeded, ~has_documents.correlate(Ingest).exists())


READ_PAGE = 5_000
_PREFIX = "meta."


@dataclass(frozen=True)
class Condition:
    """A field of the metadata has this value. Numbers and lists are compared in the form that a prompt would have."""

    field: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Return the condition in `meta.FIELD=VALUE`. Raises StorageError."""
        name, equals, value = text.partition("=")
        field = name.removeprefix(_PREFIX)
        if not equals or field == name or not field:
            raise StorageError(f"{text!r} is not meta.FIELD=VALUE, such as meta.customer=4711")
        return cls(normalize(field)[0], normalize(value)[0])

    def __str__(self) -> str:
        return f"{_PREFIX}{self.field}={self.value}"

    def holds(self, meta: Mapping[str, Any]) -> bool:
        """Return True if the metadata have the field with this value. Null is no value."""
        value = meta.get(self.field)
        return value is not None and written(value) == self.value


def select_keys(
    database: Database, name: str, conditions: Collection[Condition] = (), *, only_vanished: bool = False
) -> list[str]:
    """Return the ids of a corpus's documents with a version that meets all conditions, in order.

    With `only_vanished` only documents that vanished from their source. Raises NotFound.
    """
    corpus_id = find_corpus(database, name)
    chosen = set[str]()
    vanished = set[str]()
    columns = (Document.id, Document.key, Document.meta, Document.gone, Document.superseded_by)
    query = select(*columns).where(Document.corpus_id == corpus_id)
    if only_vanished and not conditions:
        query = query.where(Document.gone, Document.superseded_by.is_(None))
    for row in chain.from_iterable(pages(database, query, Document.id, READ_PAGE)):
        if row.gone and row.superseded_by is None:
            vanished.add(row.key)
        if all(condition.holds(row.meta) for condition in conditions):
            chosen.add(row.key)
    return sorted(chosen & vanished if only_vanished else chosen)


def count_vanished(database: Database) -> dict[str, int]:
    """Return the number of vanished documents that the store keeps, by corpus; corpora without any are left out."""
    query = (
        select(Corpus.name, func.count().label("n"))
        .join(Document, Document.corpus_id == Corpus.id)
        .where(Document.gone, Document.superseded_by.is_(None))
        .group_by(Corpus.name)
        .order_by(Corpus.name)
    )
    return {row.name: row.n for row in database.rows(query)}


PIECE = 64  # bytes of a text to search for in a file, since a page may end within the text
BLOCK = 1 << 20


@dataclass(frozen=True)
class Trace:
    """The places of a text in the store.

    `documents` are (corpus, id) of the first documents, in any version, whose text or prompt it is. Of these
    `vanished` are no longer in their source, and `superseded` have another text now. `outcomes` counts results
    computed from the text, `output_of` results whose output it is, and `indexed` its vectors in indexes. `remnants`
    are files that hold its bytes.
    """

    sha256: str
    stored: bool
    documents: tuple[tuple[str, str], ...] = ()
    outcomes: int = 0
    output_of: int = 0
    indexed: int = 0
    remnants: tuple[str, ...] = ()
    vanished: tuple[tuple[str, str], ...] = ()
    superseded: tuple[tuple[str, str], ...] = ()

    @property
    def is_nowhere(self) -> bool:
        return not self.stored and not self.remnants


def trace(database: Database, text: str, files: Sequence[Path] = ()) -> Trace:
    """Return the places of a text, normalized as when it is stored (see `storage.core.normalize`).

    The bytes of these files are searched, too.
    """
    sha256 = hashlib.sha256(text.encode()).digest()
    remnants = _find_remnants(files, text)
    with database.read() as transaction:
        content_id = transaction.scalar(select(Content.id).where(Content.sha256 == sha256))
        if content_id is None:
            return Trace(sha256.hex(), stored=False, remnants=remnants)
        prompted = select(Prompt.document_id).where(Prompt.content_id == content_id)
        holds_it = or_(Document.content_id == content_id, Document.id.in_(prompted))
        columns = (Corpus.name, Document.key, Document.gone, holds_it.label("holds_it"))
        query = select(*columns).join(Corpus, Corpus.id == Document.corpus_id)
        first = query.with_only_columns(Corpus.name, Document.key).where(holds_it).distinct().limit(SHOWN)
        named = tuple(sorted((row.name, row.key) for row in transaction.execute(first)))
        of_named = query.where(tuple_(Corpus.name, Document.key).in_(named), Document.superseded_by.is_(None))
        current = transaction.execute(of_named).all()
        here = {(row.name, row.key) for row in current if row.holds_it and not row.gone}
        vanished = {(row.name, row.key) for row in current if row.gone}
        outcomes, output_of = (
            count_rows(transaction, OutcomeRow, column == content_id)
            for column in (OutcomeRow.content_id, OutcomeRow.output_id)
        )
        indexed = _count_indexed(transaction, content_id)
    return Trace(
        sha256=sha256.hex(),
        stored=True,
        documents=named,
        outcomes=outcomes,
        output_of=output_of,
        indexed=indexed,
        remnants=remnants,
        vanished=tuple(document for document in named if document in vanished),
        superseded=tuple(document for document in named if document not in here and document not in vanished),
    )


def _count_indexed(transaction: Transaction, content_id: int) -> int:
    """Return the number of the text's vectors in side tables, whose foreign keys leave none without the text."""
    tables = [pgvector_index.side_table(spec_id) for spec_id in pgvector_index.list_spec_ids(transaction)]
    return sum(count_rows(transaction, table, table.c.content_id == content_id) for table in tables)


def _find_remnants(files: Sequence[Path], text: str) -> tuple[str, ...]:
    """Return the files that hold the text's beginning, middle or end, perhaps in a free page, perhaps as JSON."""
    if not text:
        return ()
    pieces = set[bytes]()
    for form in (text.encode(), orjson.dumps(text)[1:-1]):
        places = (0, max(0, (len(form) - PIECE) // 2), max(0, len(form) - PIECE))
        pieces |= {form[place : place + PIECE] for place in places}
    return tuple(str(file) for file in files if _holds(file, pieces))


def _holds(file: Path, pieces: set[bytes]) -> bool:
    end = b""
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            window = end + block
            if any(piece in window for piece in pieces):
                return True
            end = window[-PIECE:]
    return False
