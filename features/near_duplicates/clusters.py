"""Keep the clusters of near duplicates of a corpus up to date.

Documents are nodes, near duplicates are edges, and a cluster is a connected component: two documents that are not
near duplicates share a cluster if a chain of near duplicates leads from one to the other. Documents with one text
always share a cluster. The first document of a cluster is the one that came into the corpus first (the lowest id).

A search compares only new texts, with each other and with all others. A cluster that lost a document since the last
search is dissolved, and its other documents count as new: the lost document may have been the link. So the clusters
are those that a search of all current documents finds. Vectors are all compared. A search by words compares only
candidates, and misses few near duplicates (`features.near_duplicates.texts`). The clusters are written in one
transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from sqlalchemy import Select, delete, select

from docmill.features.near_duplicates import texts, vectors
from docmill.features.near_duplicates.components import Components, Ids
from docmill.features.near_duplicates.methods import (
    Advanced,
    ByText,
    ByVectors,
    Method,
    Unit,
    from_json,
    require_library,
    to_json,
)
from docmill.features.near_duplicates.tables import PAGE, Deduplication, Duplicate, is_repeat, promote
from docmill.storage.core.database import Database
from docmill.storage.core.lookups import is_current_document, pages
from docmill.storage.core.schema import Corpus, Document, Job, OutcomeRow, Step
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import NothingEmbedded, StorageError
from docmill.storage.search.search import embedding_of
from docmill.storage.steps import lineage, replacements
from docmill.storage.steps.conditions import DocumentFilter, Hear
from docmill.storage.steps.jobs import UNFINISHED, lock_corpus
from docmill.storage.steps.steps import OpenStep
from docmill.worker.jobs import Listener


@dataclass(frozen=True)
class SearchWork:
    """Counts of one search: the pairs that it `compared`, and the corpus's `documents`.

    `new` documents had to be compared. `repeats` are not the first of their cluster. Documents `without_vector` were
    not compared.
    """

    documents: int
    new: int
    compared: int
    repeats: int
    without_vector: int


@dataclass(frozen=True)
class _Corpus:
    """The current documents of a corpus, in the order of their ids, as arrays.

    `units` has the content of each document that is compared, or 0. Documents up to `compared_to` were compared
    before. After this search, documents up to `settled_to` need no other comparison. Contents in `late` got their
    vector since the last search. The documents were read after `read_at`, by the clock of the database.
    """

    ids: Ids
    units: Ids
    compared_to: int
    settled_to: int
    late: frozenset[int]
    read_at: float


def find(database: Database, corpus_id: int, method: Method, advanced: Advanced = lambda *_: None) -> SearchWork:
    """Bring the clusters of a corpus up to date. If the last search used another method, compare all documents.

    If another process writes clusters of the corpus meanwhile, start over. Raises StorageError, and NothingEmbedded
    if the corpus has no vectors of the method's spec.
    """
    require_library()
    while True:
        before = database.row(_select_last(corpus_id))
        corpus = _load(database, corpus_id, method, before)
        work, clusters = _find_clusters(database, corpus_id, corpus, method, advanced)
        settled = partial(_write, corpus_id=corpus_id, method=method, before=before, corpus=corpus, clusters=clusters)
        if database.write(settled):
            return work


def read_method(database: Database, corpus_id: int) -> Method | None:
    """Return the method of the last search for near duplicates in a corpus; None if there was none.

    If the corpus was migrated since, the method compares the vectors of the spec that answers now.
    """
    last = database.row(_select_last(corpus_id))
    method = None if last is None else from_json(last.method)
    if last is not None and isinstance(method, ByVectors):
        with database.read() as transaction:
            migrations = replacements.read_replacements(transaction, corpus_id)
        method = replace(
            method, spec_id=replacements.find_answering_spec(migrations, method.spec_id, last.finished_at)
        )
    return method


def _select_last(corpus_id: int) -> Select[Any, int, float]:
    """Return the query for the last search in a corpus."""
    last = select(Deduplication.method, Deduplication.compared_to, Deduplication.finished_at)
    return last.where(Deduplication.corpus_id == corpus_id)


def _select_clusters(corpus_id: int) -> Select[int, int, int]:
    """Return the query for the current documents in clusters."""
    query = select(Duplicate.document_id, Duplicate.first_id, Duplicate.n_documents)
    query = query.join(Document, Document.id == Duplicate.document_id)
    return query.where(Duplicate.corpus_id == corpus_id, is_current_document())


def _load(database: Database, corpus_id: int, method: Method, before: Any) -> _Corpus:
    query = select(Document.id, Document.content_id)
    query = query.where(Document.corpus_id == corpus_id, is_current_document())
    ids, units = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    waiting: int | None = None  # the first document that has no vector yet, and may get one
    way = _find_way(database, corpus_id, method)
    last = before if before is not None and _is_alike(database, corpus_id, from_json(before.method), method) else None
    late: set[int] = set()
    with database.read() as transaction:
        read_at = transaction.read_clock()
        is_computing = _is_computing(transaction, method)
    for page in pages(database, query, Document.id, PAGE):
        own = {row.id: row.content_id for row in page}
        of_page: Mapping[int, int] = own
        if isinstance(method, ByVectors):
            with database.read() as transaction:
                computed = lineage.read_contents(transaction, way, own)
                status = _read_status(transaction, method, {*computed.values()})
            of_page = {
                key: unit for key, unit in computed.items() if unit in status and status[unit].status == "done"
            }
            if last is not None:
                late |= {unit for unit in of_page.values() if status[unit].created_at >= last.finished_at}
            # If no job computes vectors now, a missing vector of a known text comes after `read_at`.
            lacking = (key for key in own if key not in computed or (is_computing and computed[key] not in status))
            waiting = next(lacking, None) if waiting is None else waiting
        ids.append(np.fromiter(own, np.int64, len(own)))
        units.append(np.array([of_page.get(key, 0) for key in own], np.int64))
    every = np.concatenate(ids)
    newest = int(every[-1]) if len(every) else 0
    return _Corpus(
        every,
        np.concatenate(units),
        compared_to=last.compared_to if last is not None else 0,
        settled_to=newest if waiting is None else waiting - 1,
        late=frozenset(late),
        read_at=read_at,
    )


def _find_way(database: Database, corpus_id: int, method: Method) -> tuple[OpenStep, ...]:
    """Return the steps to a method's vectors for all documents, including those left out as repeats."""
    if isinstance(method, ByText):
        return ()
    first, *others = embedding_of(database, corpus_id, method.spec_id, method.job)
    return (replace(first, leaves_out=None), *others)


def _is_alike(database: Database, corpus_id: int, last: Method, method: Method) -> bool:
    """Return True if two methods compare the same texts or vectors, even if their jobs differ."""
    options, last_options = ({**to_json(value), "job": None} for value in (method, last))
    return options == last_options and _find_way(database, corpus_id, last) == _find_way(database, corpus_id, method)


def _is_computing(transaction: Transaction, method: Method) -> bool:
    """Return True if an unfinished job may make vectors of a method, in this corpus or another."""
    if isinstance(method, ByText):
        return False
    query = select(Job.id).join(Step, Step.job_id == Job.id).limit(1)
    return transaction.scalar(query.where(Step.spec_id == method.spec_id, Job.state.in_(UNFINISHED))) is not None


def _read_status(transaction: Transaction, method: ByVectors, content_ids: set[int]) -> dict[int, Any]:
    """Return rows with the status of vectors and the time of their outcomes, by content."""
    query = select(OutcomeRow.content_id, OutcomeRow.status, OutcomeRow.created_at)
    query = query.where(OutcomeRow.spec_id == method.spec_id)
    return {row.content_id: row for row in transaction.probe(query, OutcomeRow.content_id, content_ids)}


def _find_clusters(
    database: Database, corpus_id: int, corpus: _Corpus, method: Method, advanced: Advanced
) -> tuple[SearchWork, dict[int, tuple[int, int]]]:
    """Return the counts, and {document: (first document, documents in the cluster)} for documents in clusters."""
    taking_part = corpus.units > 0
    ids, units = corpus.ids[taking_part], corpus.units[taking_part]
    # The places of contents are in the order of their first documents, so that a component's root is its first.
    contents, firsts, place = np.unique(units, return_index=True, return_inverse=True)
    order = np.argsort(firsts, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    contents, firsts, place = contents[order], firsts[order], rank[place]
    fresh = (ids[firsts] > corpus.compared_to) | np.isin(contents, [*corpus.late])
    components = Components(len(contents))
    for places, is_whole in _read_clusters(database, corpus_id, ids, place) if corpus.compared_to else ():
        if is_whole:
            for other in places[1:]:
                components.join(int(places[0]), int(other))
        else:
            fresh[places] = True
    if not fresh.any():
        compared = 0
    elif isinstance(method, ByText):
        compared = texts.connect(database, method, contents, fresh, components, advanced)
    else:
        compared = vectors.connect(database, method, contents, fresh, components, advanced)
    roots = components.roots(np.arange(len(contents), dtype=np.int64))[place]
    sizes = np.bincount(roots, minlength=len(contents))
    several = sizes[roots] > 1
    first_ids = ids[firsts[roots[several]]]
    work = SearchWork(
        documents=len(corpus.ids),
        new=int(fresh[place].sum()),
        compared=compared,
        repeats=int((first_ids != ids[several]).sum()),
        without_vector=int((~taking_part).sum()),
    )
    rows = zip(ids[several].tolist(), first_ids.tolist(), sizes[roots[several]].tolist(), strict=True)
    return work, {document_id: (first_id, size) for document_id, first_id, size in rows}


def _read_clusters(database: Database, corpus_id: int, ids: Ids, place: Ids) -> Iterator[tuple[Ids, bool]]:
    """Yield the places of the contents of each stored cluster, and False if the cluster lost a document."""
    of: dict[int, list[int]] = {}
    sizes: dict[int, int] = {}
    for page in pages(database, _select_clusters(corpus_id), Duplicate.document_id, PAGE):
        for row in page:
            of.setdefault(row.first_id, []).append(row.document_id)
            sizes[row.first_id] = row.n_documents
    for first_id, members in of.items():
        at = np.searchsorted(ids, members)
        known = at < len(ids)
        known[known] = ids[at[known]] == np.array(members)[known]
        whole = bool(known.all()) and len(members) == sizes[first_id]
        yield place[at[known]], whole


def _write(
    transaction: Transaction,
    corpus_id: int,
    method: Method,
    before: Any,
    corpus: _Corpus,
    clusters: Mapping[int, tuple[int, int]],
) -> bool:
    """Replace the rows of current documents that changed. Return False if another process was faster."""
    lock_corpus(transaction, corpus_id)
    if transaction.execute(_select_last(corpus_id)).one_or_none() != before:
        return False
    if transaction.scalar(select(Corpus.id).where(Corpus.id == corpus_id)) is None:
        return True  # it was removed meanwhile
    rows = transaction.execute(_select_clusters(corpus_id))
    had = {row.document_id: (row.first_id, row.n_documents) for row in rows}
    changed = [key for key, value in clusters.items() if had.get(key) != value]
    stale = [*(key for key in had if key not in clusters), *(key for key in changed if key in had)]
    for first in range(0, len(stale), PAGE):
        page = stale[first : first + PAGE]
        transaction.execute(delete(Duplicate).where(Duplicate.document_id.in_(page)))
    lost: set[tuple[int, int]] = set()  # clusters that lost a document meanwhile
    for first in range(0, len(changed), PAGE):
        page = changed[first : first + PAGE]
        there = select(Document.id).where(is_current_document())
        present = [row.id for row in transaction.probe(there, Document.id, page)]
        lost |= {(corpus_id, clusters[key][0]) for key in {*page} - {*present}}
        columns = {
            "document_id": present,
            "corpus_id": [corpus_id] * len(present),
            "first_id": [clusters[key][0] for key in present],
            "n_documents": [clusters[key][1] for key in present],
        }
        transaction.load(Duplicate, columns)
    promote(transaction, lost)
    values = {
        "method": to_json(method),
        "compared_to": corpus.settled_to,
        "finished_at": corpus.read_at,  # the next search compares vectors that came since
    }
    put = transaction.insert(Deduplication).values(corpus_id=corpus_id, **values)
    transaction.execute(put.on_conflict_do_update(index_elements=["corpus_id"], set_=values))
    return True


def forget(database: Database, corpus_id: int) -> int:
    """Remove the clusters of a corpus. Return the number of documents that were in a cluster."""

    def work(transaction: Transaction) -> int:
        lock_corpus(transaction, corpus_id)
        transaction.execute(delete(Deduplication).where(Deduplication.corpus_id == corpus_id))
        return transaction.execute(delete(Duplicate).where(Duplicate.corpus_id == corpus_id)).rowcount

    return database.write(work)


log = logging.getLogger("docmill.near_duplicates")


@dataclass(frozen=True)
class DedupOptions:
    """The options of a search; None is the default. `job` is the number of an embed job."""

    threshold: float | None = None
    shingle: tuple[Unit, int] | None = None
    seed: int | None = None
    embeddings: bool = False
    job: int | None = None


def deduplicate(
    database: Database, corpus_id: int, name: str, options: DedupOptions, listener: Listener
) -> SearchWork:
    """Bring the clusters of a corpus up to date.

    Raises NotFound, NothingEmbedded and StorageError.
    """
    method = _choose_method(database, corpus_id, name, options, listener)
    with listener.bar("dedup", total=1) as progress:

        def advanced(phase: str, done: int, total: int) -> None:
            progress.update(done, total=max(1, total), remark=phase)

        sums = find(database, corpus_id, method, advanced)
        progress.update(sums.documents, total=sums.documents, remark="documents")
    return sums


def _choose_method(
    database: Database, corpus_id: int, name: str, options: DedupOptions, listener: Listener
) -> Method:
    """Return the method that the options choose, or the method of the last search if there are no options."""
    if options.embeddings or options.job is not None:
        if options.shingle is not None or options.seed is not None:
            raise StorageError("shingle and seed are for comparing words, not vectors; leave them out")
        return vectors.choose_method(database, name, options.job, options.threshold)
    last = read_method(database, corpus_id)
    if last is not None and options == DedupOptions():
        listener.say(f"As in the last search: {last}.")
        return last
    unit, size = options.shingle or (None, None)
    chosen: dict[str, Any] = {"threshold": options.threshold, "unit": unit, "size": size, "seed": options.seed}
    return replace(ByText(), **{name: value for name, value in chosen.items() if value is not None})


def _update(database: Database, corpus_id: int, hear: Hear) -> str | None:
    """Find near duplicates in the corpus, by the method of the last search or by the default one."""

    def advanced(phase: str, done: int, total: int) -> None:
        hear(f"near duplicates: {phase} {100 * done // max(1, total)} %")

    method = read_method(database, corpus_id) or ByText()
    try:
        n = find(database, corpus_id, method, advanced).repeats
    except NothingEmbedded as error:  # the clusters stay as they were, without documents that left
        log.warning("not_searched corpus=%d reason=%r", corpus_id, str(error))
        database.write(partial(_replace_lost_firsts, corpus_id=corpus_id))
        return None
    if n == 1:
        return "1 document is a near duplicate of an earlier one; --leave-out leaves it out."
    return f"{n:,} documents are near duplicates of earlier ones; --leave-out leaves them out."


def _replace_lost_firsts(transaction: Transaction, corpus_id: int) -> None:
    """Make the next document the first of each cluster whose first document left the corpus."""
    lock_corpus(transaction, corpus_id)
    lost = select(Duplicate.first_id).join(Document, Document.id == Duplicate.document_id)
    is_first = Duplicate.first_id == Duplicate.document_id
    first_ids = transaction.scalars(lost.where(Duplicate.corpus_id == corpus_id, is_first, ~is_current_document()))
    promote(transaction, [(corpus_id, first_id) for first_id in first_ids.all()])


def _explain(transaction: Transaction, document_id: int) -> str | None:
    first = Document.__table__.alias("first")
    query = select(first.c.key).join(Duplicate.__table__, Duplicate.first_id == first.c.id)
    key = transaction.scalar(query.where(Duplicate.document_id == document_id, first.c.id != document_id))
    return None if key is None else f"a near duplicate of the earlier document {key}"


FILTER = DocumentFilter(
    reason="a near duplicate of an earlier document",
    leaves_out=is_repeat,
    update=_update,
    explain=_explain,
    require=require_library,
)
