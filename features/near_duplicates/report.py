"""The clusters of near duplicates of a corpus, read: counts, samples, and a row for each document in a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import and_, case, func, select

from docmill.features.near_duplicates.methods import Method, from_json
from docmill.features.near_duplicates.tables import PAGE, Deduplication, Duplicate, is_repeat
from docmill.storage.core.database import Database
from docmill.storage.core.lookups import count_rows, is_current_document, pages
from docmill.storage.core.schema import Content, Document
from docmill.storage.errors import StorageError

SHOWN_CHARS = 1_000
# The number of documents in a cluster, and the id and the beginning of the text of its first documents.
Sample: TypeAlias = tuple[int, list[tuple[str, str]]]


@dataclass(frozen=True)
class DuplicateCounts:
    """The counts of the last search. `texts` are unique, and `chars` are their characters.

    `repeats` are documents that are not the first of their cluster. A step that leaves out near duplicates reads
    `repeated_texts` and `repeated_chars` less. `new` documents came since the last search.
    """

    method: Method
    finished_at: float
    documents: int
    new: int
    clusters: int
    in_clusters: int
    repeats: int
    texts: int
    chars: int
    repeated_texts: int
    repeated_chars: int


def summarize(database: Database, corpus_id: int, name: str) -> DuplicateCounts:
    """Return the counts of the last search in a corpus. Raises StorageError."""
    here = and_(Document.corpus_id == corpus_id, is_current_document())
    with database.read() as transaction:
        last = transaction.execute(select(Deduplication).where(Deduplication.corpus_id == corpus_id)).one_or_none()
        if last is None:
            raise StorageError(
                f"the corpus {name} was never searched for near duplicates; search it: docmill dedup find {name}"
            )
        in_clusters = select(
            func.count().label("documents"),
            func.sum(case((Duplicate.first_id == Duplicate.document_id, 1), else_=0)).label("clusters"),
        ).join_from(Duplicate, Document, Document.id == Duplicate.document_id)
        counts = transaction.execute(in_clusters.where(here)).one()
        of_content = (
            select(
                Document.content_id, func.count().label("n"), func.max(case((is_repeat(), 0), else_=1)).label("kept")
            )
            .where(here)
            .group_by(Document.content_id)
        ).subquery()
        kept, chars = of_content.c.kept, Content.n_chars
        sums = (of_content.c.n, 1, 1 - kept, chars, (1 - kept) * chars)
        totals = transaction.execute(
            select(*(func.coalesce(func.sum(number), 0) for number in sums)).join_from(
                of_content, Content, Content.id == of_content.c.content_id
            )
        ).one()
        n_new = count_rows(transaction, Document, and_(here, Document.id > last.compared_to))
    documents, texts, repeated_texts, n_chars, repeated_chars = (int(number) for number in totals)
    clusters = int(counts.clusters or 0)
    return DuplicateCounts(
        method=from_json(last.method),
        finished_at=last.finished_at,
        documents=documents,
        new=n_new,
        clusters=clusters,
        in_clusters=counts.documents,
        repeats=counts.documents - clusters,
        texts=texts,
        chars=n_chars,
        repeated_texts=repeated_texts,
        repeated_chars=repeated_chars,
    )


def read_samples(database: Database, corpus_id: int, n_clusters: int, n_documents: int) -> list[Sample]:
    """Return the largest clusters, each with the number of its documents and the first of these."""
    beginning = func.substr(Content.text, 1, SHOWN_CHARS).label("text")
    query = select(Duplicate.document_id, Duplicate.first_id, Duplicate.n_documents, Document.key, beginning)
    query = query.join(Document, Document.id == Duplicate.document_id)
    query = query.join(Content, Content.id == Document.content_id)
    query = query.where(Duplicate.corpus_id == corpus_id, is_current_document())
    largest = query.where(Duplicate.first_id == Duplicate.document_id)
    largest = largest.order_by(Duplicate.n_documents.desc(), Duplicate.first_id).limit(n_clusters)
    samples = []
    with database.read() as transaction:
        for first in transaction.execute(largest).all():
            mine = and_(Duplicate.corpus_id == corpus_id, Duplicate.first_id == first.document_id)
            others = query.where(mine, Duplicate.document_id != first.document_id)
            rows = transaction.execute(others.order_by(Duplicate.document_id).limit(n_documents - 1))
            members = [(row.key, row.text) for row in (first, *rows)]
            now = select(func.count()).join_from(Duplicate, Document, Document.id == Duplicate.document_id)
            documents = transaction.scalar(now.where(mine, is_current_document())) or 0
            samples.append((documents, members))
    return samples


def read_members(database: Database, corpus_id: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each document in a cluster, in the order in which they came into the corpus.

    A row has `id`, the `first` document's id, `is_first`, and the number of `documents` in the cluster.
    """
    first = Document.__table__.alias("first")
    query = (
        select(
            Duplicate.document_id, Duplicate.first_id, Duplicate.n_documents, Document.key, first.c.key.label("of")
        )
        .join(Document, Document.id == Duplicate.document_id)
        .join(first, first.c.id == Duplicate.first_id, isouter=True)
        .where(Duplicate.corpus_id == corpus_id, is_current_document())
    )
    for page in pages(database, query, Duplicate.document_id, PAGE):
        for row in page:
            is_the_first = row.document_id == row.first_id
            yield {"id": row.key, "first": row.of, "is_first": is_the_first, "documents": row.n_documents}
