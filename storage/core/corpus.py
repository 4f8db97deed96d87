"""A corpus: its current documents."""

from __future__ import annotations

from sqlalchemy import ColumnElement, FromClause, and_

from storage.core.schema import Document


def is_current_document(documents: FromClause = Document.__table__) -> ColumnElement[bool]:
    """Return the condition for a document to be in its corpus now: the latest of its key, and in its source still.

    `documents` has the columns of `Document`, perhaps under another name.
    """
    return and_(documents.c.superseded_by.is_(None), ~documents.c.gone)
