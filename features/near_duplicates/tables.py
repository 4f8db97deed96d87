"""The tables of near duplicates, and their part in deletion.

When documents are removed, the next document of a cluster becomes its first. `Duplicate.n_documents` stays as the
last search counted. So the next search sees that a cluster lost a document, and compares the rest of it again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from itertools import groupby, islice

from sqlalchemy import (
    DDL,
    ColumnElement,
    ForeignKey,
    FromClause,
    Index,
    and_,
    bindparam,
    delete,
    event,
    func,
    select,
    update,
)

from docmill.features.near_duplicates.methods import ByVectors, from_json
from docmill.storage.core.lookups import delete_page, is_current_document
from docmill.storage.core.schema import Base, Content, Corpus, Document, Json, column, new_metadata
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion.needed import Dependent

PAGE = 10_000


METADATA = new_metadata()  # of the tables of this feature


class Deduplication(Base):
    """The last search for near duplicates in a corpus.

    `method` has its options (see `features.near_duplicates.methods`). It compared the documents up to `compared_to`.
    """

    metadata = METADATA
    __tablename__ = "deduplication"
    corpus_id = column(int, ForeignKey(Corpus.__table__.c.id, ondelete="CASCADE"), primary_key=True)
    method = column(Json)
    compared_to = column(int)
    finished_at = column(float)


class Duplicate(Base):
    """A document of a cluster of near duplicates. `first_id` is the cluster's first document, which may be this one.

    `n_documents` is the number of documents in the cluster at the last search. A document without near duplicates has
    no row. The view `near_duplicates` has the current documents by their ids.
    """

    metadata = METADATA
    __tablename__ = "duplicate"
    document_id = column(int, ForeignKey(Document.__table__.c.id, ondelete="CASCADE"), primary_key=True)
    corpus_id = column(int, ForeignKey(Corpus.__table__.c.id, ondelete="CASCADE"))
    first_id = column(int)  # no foreign key: `features.near_duplicates.clusters` keeps it up to date
    n_documents = column(int)

    __table_args__ = (Index("ix_duplicate_corpus_id_first_id", "corpus_id", "first_id"),)


event.listen(
    Duplicate.__table__,
    "after_create",
    DDL(  # type: ignore[no-untyped-call]
        """
        CREATE VIEW near_duplicates AS
        SELECT corpus.name AS corpus,
               document.key AS id,
               first.key AS first,
               duplicate.first_id = duplicate.document_id AS is_first,
               duplicate.n_documents AS documents
        FROM duplicate
        JOIN document ON document.id = duplicate.document_id
        JOIN corpus ON corpus.id = document.corpus_id
        LEFT JOIN document AS first ON first.id = duplicate.first_id
        WHERE document.superseded_by IS NULL AND NOT document.gone
        """
    ),
)


class Signature(Base):
    """The MinHash signature of a text: a hash of each band, little-endian uint32.

    `recipe` is a hash of the options that it depends on. `n_shingles` is the size of the text's set of shingles.
    """

    metadata = METADATA
    __tablename__ = "signature"
    content_id = column(int, ForeignKey(Content.__table__.c.id, ondelete="CASCADE"), primary_key=True)
    recipe = column(int, primary_key=True)
    bands = column(bytes)
    n_shingles = column(int)


def promote(transaction: Transaction, clusters: Iterable[tuple[int, int]]) -> None:
    """Give clusters that lost documents the earliest current document as their first.

    A cluster is named by its corpus and its first document. Clusters with fewer than two current documents are
    removed.
    """
    for corpus_id, of_corpus in groupby(sorted(clusters), key=lambda cluster: cluster[0]):
        while first_ids := [first_id for _, first_id in islice(of_corpus, PAGE)]:
            these = and_(Duplicate.corpus_id == corpus_id, Duplicate.first_id.in_(first_ids))
            left = (
                select(
                    Duplicate.first_id, func.min(Duplicate.document_id).label("next"), func.count().label("documents")
                )
                .join(Document, Document.id == Duplicate.document_id)
                .where(these, is_current_document())
                .group_by(Duplicate.first_id)
            )
            next_of = {row.first_id: row.next for row in transaction.execute(left) if row.documents > 1}
            ended = [first_id for first_id in first_ids if first_id not in next_of]
            in_ended = and_(Duplicate.corpus_id == corpus_id, Duplicate.first_id.in_(ended))
            transaction.execute(delete(Duplicate).where(in_ended))
            changed = [{"old": old, "new": new} for old, new in next_of.items() if old != new]
            if changed:
                of_old = and_(Duplicate.corpus_id == corpus_id, Duplicate.first_id == bindparam("old"))
                transaction.execute(update(Duplicate).where(of_old).values(first_id=bindparam("new")), changed)


def _prepare_removal(transaction: Transaction, document_ids: Collection[int]) -> Callable[[], None]:
    """Return the function that brings the documents' clusters up to date after the documents were removed."""
    query = select(Duplicate.document_id, Duplicate.corpus_id, Duplicate.first_id)
    rows = transaction.probe(query, Duplicate.document_id, document_ids)
    return partial(promote, transaction, {(row.corpus_id, row.first_id) for row in rows})


def _clear_corpus(transaction: Transaction, corpus_id: int, size: int) -> int:
    transaction.execute(delete(Deduplication).where(Deduplication.corpus_id == corpus_id))
    return delete_page(transaction, Duplicate, Duplicate.corpus_id == corpus_id, size)


def _compared_specs(transaction: Transaction) -> set[int]:
    """Return the specs whose vectors were compared, since the next search compares new vectors with them."""
    compared = [from_json(method) for method in transaction.scalars(select(Deduplication.method))]
    return {method.spec_id for method in compared if isinstance(method, ByVectors)}


DEPENDENT = Dependent(_compared_specs, _prepare_removal, _clear_corpus)


def is_repeat(documents: FromClause = Document.__table__) -> ColumnElement[bool]:
    """Return the condition that a document is in a cluster but not its first. `documents` has the column `id`."""
    repeats = and_(Duplicate.document_id == documents.c.id, Duplicate.first_id != Duplicate.document_id)
    return select(Duplicate.document_id).where(repeats).correlate(documents).exists()
