"""A corpus: its name, and its current documents."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, FromClause, and_, select

from storage.core.database import Database
from storage.core.schema import Corpus, Document
from storage.errors import NoSuchCorpus


def corpus_named(database: Database, name: str) -> int:
    """Return the id of the corpus with this name. Raises NoSuchCorpus."""
    with database.read() as transaction:
        found = transaction.scalar(select(Corpus.id).where(Corpus.name == name))
    if found is None:
        raise NoSuchCorpus(f"there is no corpus {name}; `docmill corpus list` names them")
    return found


def first_existing(database: Database, names: Sequence[str]) -> str:
    """Return the first of several names that a corpus has; the first name if none has."""
    with database.read() as transaction:
        found = {*transaction.scalars(select(Corpus.name).where(Corpus.name.in_(names)))}
    return next((name for name in names if name in found), names[0])


def is_current_document(documents: FromClause = Document.__table__) -> ColumnElement[bool]:
    """Return the condition for a document to be in its corpus now: the latest of its key, and in its source still.

    `documents` has the columns of `Document`, perhaps under another name.
    """
    return and_(documents.c.superseded_by.is_(None), ~documents.c.gone)
