"""Keep the clusters of near duplicates right when documents are removed: promote the next document of a cluster.

`Duplicate.n_documents` stays as the last search counted. So the next search sees that a cluster lost a document, and
compares the rest of it again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from itertools import groupby
from typing import NamedTuple

from sqlalchemy import and_, bindparam, delete, func, select, update

from docmill.storage.core.lookups import delete_page, is_current_document
from docmill.storage.core.schema import Deduplication, Document, Duplicate
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion.dependents import Dependent
from docmill.storage.duplicates.methods import ByVectors, stored


class Cluster(NamedTuple):
    """A cluster of near duplicates in a corpus."""

    corpus_id: int
    first_id: int


def clusters_of(transaction: Transaction, document_ids: Collection[int]) -> set[Cluster]:
    """Return the clusters that have these documents."""
    query = select(Duplicate.document_id, Duplicate.corpus_id, Duplicate.first_id)
    rows = transaction.probe(query, Duplicate.document_id, document_ids)
    return {Cluster(row.corpus_id, row.first_id) for row in rows}


def promote(transaction: Transaction, clusters: Iterable[Cluster]) -> None:
    """Give clusters that lost documents the earliest current document as their first.

    A cluster that is left with fewer than two current documents is removed.
    """
    for corpus_id, of_corpus in groupby(sorted(clusters), key=lambda cluster: cluster.corpus_id):
        first_ids = [cluster.first_id for cluster in of_corpus]
        these = and_(Duplicate.corpus_id == corpus_id, Duplicate.first_id.in_(first_ids))
        left = (
            select(Duplicate.first_id, func.min(Duplicate.document_id).label("next"), func.count().label("documents"))
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


def _removing(transaction: Transaction, document_ids: Collection[int]) -> Callable[[], None]:
    return partial(promote, transaction, clusters_of(transaction, document_ids))


def _clear_corpus(transaction: Transaction, corpus_id: int, size: int) -> int:
    transaction.execute(delete(Deduplication).where(Deduplication.corpus_id == corpus_id))
    return delete_page(transaction, Duplicate, Duplicate.corpus_id == corpus_id, size)


def _compared_specs(transaction: Transaction) -> set[int]:
    """Return the specs whose vectors were compared: the next search compares new ones to them."""
    compared = [stored(method) for method in transaction.scalars(select(Deduplication.method))]
    return {method.spec_id for method in compared if isinstance(method, ByVectors)}


DEPENDENT = Dependent(_compared_specs, _removing, _clear_corpus)
