"""Removal of superseded versions of documents, and of readings that nothing refers to any more.

A version stays while one of these needs it:

- The current version, if the same reading brought both: a source that has a key twice has it on every reading, and
  what lost must be known again (see `storage.ingest.ingest`).
- An unfinished job, or one whose results are still to be written, that was opened before another version took its
  place.

Finished jobs need none. Their `results` lack documents whose version was removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, delete, func, not_, or_, select

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import pages
from docmill.storage.core.schema import Contender, Document, Ingest, Job, Rejection, db_now
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion import gc, removal
from docmill.storage.deletion.paging import PAGE, Budget, Removed, remove_items
from docmill.storage.pipelines import pipelines
from docmill.storage.steps.jobs import UNFINISHED

LOOK = 5_000  # superseded versions examined in one transaction
READINGS = 20  # readings removed in one transaction: each makes the database scan the documents


def count(database: Database, older_than_s: float) -> Removed:
    """Return the numbers of the versions (`documents`) and readings (`ingests`) that `remove` would remove now."""
    goes = are_removable(older_than_s)
    n_documents = sum(len(page) for page in removable(database, older_than_s))
    with database.read() as transaction:
        readings = select(func.count()).select_from(Ingest).where(_is_unneeded(older_than_s, not_(goes)))
        return Removed(documents=n_documents, ingests=transaction.scalar(readings) or 0)


def remove(database: Database, older_than_s: float, budget: Budget | None = None) -> Removed:
    """Remove versions that were superseded long ago, then what nothing needs, then readings."""
    budget = budget or Budget()
    ids = ([version.id for version in page] for page in removable(database, older_than_s))
    removed = remove_items(database, ids, partial(_remove_page, older_than_s=older_than_s), budget, PAGE)
    with database.read() as transaction:
        readings = transaction.scalars(select(Ingest.id).where(_is_unneeded(older_than_s))).all()
    return removed + remove_items(database, [readings], _remove_readings, budget, READINGS)


def removable(database: Database, older_than_s: float) -> Iterator[list[Any]]:
    """Yield the versions that may be removed now, page by page."""
    query = select(Document.id, Document.content_id, are_removable(older_than_s).label("goes"))
    query = query.where(Document.superseded_by.is_not(None))
    for page in pages(database, query, Document.id, LOOK):
        yield [version for version in page if version.goes]


def _remove_page(transaction: Transaction, ids: Sequence[int], *, older_than_s: float) -> Removed:
    # The corpus is not locked: a reading holds that lock while it waits for this transaction, and no reading
    # makes a removable version needed again.
    gc.begin(transaction)
    transaction.keep_last_ids(Document)
    still = and_(Document.id.in_(ids), are_removable(older_than_s))
    versions = transaction.execute(select(Document.id, Document.content_id).where(still)).all()
    return removal.remove_rows(transaction, versions)


def _remove_readings(transaction: Transaction, ids: Sequence[int]) -> Removed:
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

    It finds nothing if that document was removed: the one it superseded is older still.
    """
    later, reading = Document.__table__.alias("later_version").c, Ingest.__table__.alias("later_reading").c
    read_at = func.coalesce(reading.finished_at, reading.seen_at)
    query = select(later.id).join_from(later.id.table, reading.id.table, reading.id == later.ingest_id)
    return query.where(later.id == Document.superseded_by, read_at > since)


def _is_unneeded(older_than_s: float, staying: ColumnElement[bool] | None = None) -> ColumnElement[bool]:
    """Return the condition for a reading that ended long ago and has no job, rejection or document.

    `staying` is the condition for documents to count; by default all do.
    """
    read_at = func.coalesce(Ingest.finished_at, Ingest.seen_at)
    # One query for all readings: no index leads from a reading to its documents.
    has_documents = select(Document.ingest_id).distinct()
    if staying is not None:
        has_documents = has_documents.where(or_(Document.superseded_by.is_(None), staying))
    referring = (select(table.ingest_id).where(table.ingest_id == Ingest.id) for table in (Job, Rejection, Contender))
    return and_(
        read_at <= db_now() - older_than_s,
        *(~query.correlate(Ingest).exists() for query in referring),
        Ingest.id.not_in(has_documents),
    )
