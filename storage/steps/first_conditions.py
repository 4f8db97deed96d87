"""The condition that no earlier document is a near duplicate of a document, in SQL and for many documents."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import ColumnElement, FromClause, and_, select

from docmill.storage.core.schema import Document, Duplicate
from docmill.storage.core.transaction import Transaction


def is_first(documents: FromClause = Document.__table__) -> ColumnElement[bool]:
    """Return the condition for a document to be the first of its cluster, or in none.

    `documents` has the column `id` of `Document`, perhaps under another name.
    """
    repeats = select(Duplicate.document_id).where(
        and_(Duplicate.document_id == documents.c.id, Duplicate.first_id != Duplicate.document_id)
    )
    return ~repeats.correlate(documents).exists()


def firsts(transaction: Transaction, own: Mapping[int, int]) -> Mapping[int, int]:
    """Return the documents, with their contents, that are the first of their clusters, or in none."""
    query = select(Duplicate.document_id).where(Duplicate.first_id != Duplicate.document_id)
    repeats = {row.document_id for row in transaction.probe(query, Duplicate.document_id, [*own])}
    return {key: content_id for key, content_id in own.items() if key not in repeats}


def first_of(transaction: Transaction, document_id: int) -> str | None:
    """Return the id, as users know it, of the first document of a cluster; None for that document itself."""
    first = Document.__table__.alias("first")
    query = select(first.c.key).join(Duplicate.__table__, Duplicate.first_id == first.c.id)
    return transaction.scalar(query.where(Duplicate.document_id == document_id, first.c.id != document_id))
