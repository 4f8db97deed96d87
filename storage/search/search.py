"""Search for the documents of a corpus that are nearest to a query, on any store, in constant memory.

Every document is compared, or only the candidates of an index of the vectors (`ann`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from shlex import quote
from typing import Any, TypeAlias

import numpy as np
from sqlalchemy import case, select, tuple_

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import SPEC, is_current_document, missing_corpus, read_texts, spec_of, vector_length
from docmill.storage.core.schema import AnyRow, Corpus, Document, Job, OutcomeRow, SpecRow, Step
from docmill.storage.core.transaction import IN_BINARY, Transaction
from docmill.storage.errors import NothingEmbedded
from docmill.storage.outputs.output_types import VECTOR
from docmill.storage.search import ann
from docmill.storage.search.ann import Searched
from docmill.storage.search.knn import LENGTHS_DIFFER, Matrix, Nearest, cosines, matrix_of
from docmill.storage.steps import lineage, replacements
from docmill.storage.steps.replacements import SpecReplacement
from docmill.storage.steps.steps import OpenStep, find_way, read_steps

BLOCK = 4_096  # vectors compared at a time, and the most documents of a page
PAGE_NUMBERS = 2**21  # numbers in the vectors of a page; large models have smaller pages
WINDOWS = 32  # windows assumed for a document, if every window has a vector
LISTED = 10  # corpora or jobs in a message


@dataclass(frozen=True)
class StoredHit:
    """A document that was found, and the cosine of its vector with the query's. `text` is the embedded text.

    If every window was kept, `window` is [start, end) of the best one, in characters of the text. `passage` is
    [start, end) of the part that matched, as narrow as it is known.
    """

    id: str
    score: float
    text: str
    meta: Mapping[str, Any]
    window: tuple[int, int] | None
    passage: tuple[int, int] | None

    @property
    def matched(self) -> str | None:
        """The part of the text that matched; None if the whole text has one vector."""
        return None if self.passage is None else self.text[slice(*self.passage)]


def choose(database: Database, names: Sequence[str], job_id: int | None = None) -> Searched:
    """Return the corpus with the first of these names, and the spec of its latest embed job or of the job `job_id`.

    If that spec was replaced in the corpus, return the spec in its place (`storage.steps.replacements`). Messages
    offer other specs with results. Raises NotFound, and NothingEmbedded if there is no such job, or no vector
    of a current document.
    """
    with database.read() as transaction:
        named = {row.name: row for row in transaction.execute(select(Corpus).where(Corpus.name.in_(names)))}
        corpus = next((named[name] for name in names if name in named), None)
        if corpus is None:
            raise missing_corpus(transaction, names, _list_corpora(transaction, _kinds(database)[0]))
        of_corpus = _JOBS.where(Job.corpus_id == corpus.id, SpecRow.kind.in_(_kinds(database)))
        replaced = replacements.read_replacements(transaction, corpus.id)
        jobs = _order_jobs(transaction.execute(of_corpus).all(), replaced)
        dropped = replacements.find_dropped_specs(replaced)
        gone = _find_without_results(transaction, jobs, dropped)
        chosen, others = _choose_job(corpus.name, jobs, gone, job_id, _kinds(database)[0])
        if chosen.spec_id in gone and chosen.spec_id in dropped:
            raise NothingEmbedded(f"`docmill gc` removed the vectors of {_name_of(chosen)}{_offer_others(others)}")
        steps = read_steps(transaction, chosen.id)
        searched = Searched(
            corpus_id=corpus.id,
            n_documents=corpus.n_documents,
            job_id=chosen.id,
            way=tuple(find_way(steps, steps[chosen.seq])),
            spec=spec_of(chosen),
            others=others,
        )
        if not _has_vectors(transaction, searched):
            raise NothingEmbedded(
                f"no document that is in the corpus {corpus.name} now has a vector by job {searched.job_id} "
                f"(`docmill status {searched.job_id}` says more){_offer_others(others)}"
            )
    return searched


def _offer_others(others: Sequence[str]) -> str:
    """Return the end of a message that offers other jobs."""
    return f"; there are also: {'; '.join(others)}" if others else ""


def embedding_of(database: Database, corpus_id: int, spec_id: int, job_id: int | None) -> tuple[OpenStep, ...]:
    """Return the steps that lead to the vectors of a spec in a job, or else in the latest job of a corpus with it.

    Raises NothingEmbedded if there is no such job.
    """
    query = select(Job.id, Step.seq).join(Step, Step.job_id == Job.id)
    query = query.where(Job.corpus_id == corpus_id, Step.spec_id == spec_id)
    query = query.order_by((Job.id == job_id).desc(), Job.id.desc(), Step.seq.desc()).limit(1)
    with database.read() as transaction:
        latest = transaction.execute(query).one_or_none()
        if latest is None:
            raise NothingEmbedded("the job that made the vectors of this corpus was removed; embed the corpus again")
        steps = read_steps(transaction, latest.id)
    return tuple(find_way(steps, steps[latest.seq]))


_EmbedJob: TypeAlias = AnyRow  # a step of a job that embeds a corpus, of `_JOBS`
_JOBS = (
    select(Job.id, Step.seq, Step.spec_id, Job.created_at, *SPEC)
    .join(Step, Step.job_id == Job.id)
    .join(SpecRow, SpecRow.id == Step.spec_id)
    .order_by(Job.id.desc(), Step.seq.desc())
)


def _kinds(database: Database) -> list[str]:
    """Return the names of the kinds whose output is a vector."""
    return [kind.name for kind in database.kinds.values() if kind.output is VECTOR]


def _name_of(job: _EmbedJob) -> str:
    return f"job {job.id}, {spec_of(job)}"


def _order_jobs(jobs: Sequence[_EmbedJob], replaced: Sequence[SpecReplacement]) -> Sequence[_EmbedJob]:
    """Return a corpus's embed jobs, beginning with the job that answers, then the latest first.

    The job that answers is not the latest after a migration to another model, and during its backfill.
    """
    if not jobs:
        return jobs
    answers = replacements.find_answering_spec(replaced, jobs[0].spec_id, jobs[0].created_at)
    first = next((job for job in jobs if job.spec_id == answers), jobs[0])
    return [first, *(job for job in jobs if job is not first)]


def _find_without_results(
    transaction: Transaction, jobs: Sequence[_EmbedJob], dropped: Mapping[int, float]
) -> frozenset[int]:
    """Return the specs of a corpus's embed jobs that have no results there, given when dropped specs were replaced.

    Another corpus may have computed a dropped spec again: it counts here only if a job over this corpus did so, too.
    """
    transaction.prefer_indexes()
    latest: dict[int, float] = {}
    for job in jobs:
        latest[job.spec_id] = max(job.created_at, latest.get(job.spec_id, job.created_at))
    any_result = select(OutcomeRow.content_id).where(OutcomeRow.spec_id == SpecRow.id).exists()
    computed = {*transaction.scalars(select(SpecRow.id).where(SpecRow.id.in_(sorted(latest)), any_result))}
    stale = {spec_id for spec_id, at in dropped.items() if spec_id in latest and latest[spec_id] <= at}
    return frozenset(latest.keys() - computed | stale)


def _choose_job(
    corpus: str, jobs: Sequence[_EmbedJob], gone: frozenset[int], job_id: int | None, kind: str
) -> tuple[_EmbedJob, tuple[str, ...]]:
    """Return the job to search by, the first of a corpus's embed jobs, and the names of the others.

    Specs that are `gone` have no results, and are not among the others.
    """
    if not jobs:
        raise NothingEmbedded(
            f"no job embeds the corpus {corpus}; make one: "
            f"docmill run {kind} {quote(corpus) if '/' in corpus else f'SOURCE --corpus {quote(corpus)}'}"
        )
    chosen = next((job for job in jobs if job_id in (None, job.id)), None)
    latest: dict[int, _EmbedJob] = {}
    for job in jobs:
        latest.setdefault(job.spec_id, job)
    offered = [job for spec_id, job in latest.items() if spec_id not in gone]
    if chosen is None:
        there_are = "; ".join(map(_name_of, (offered or [*latest.values()])[:LISTED]))
        raise NothingEmbedded(f"job {job_id} embeds nothing of the corpus {corpus}; those that do: {there_are}")
    return chosen, tuple(_name_of(job) for job in offered if job.spec_id != chosen.spec_id)[:LISTED]


def search(
    database: Database,
    searched: Searched,
    queries: Matrix,
    top: int,
    advanced: Callable[[int, int], None] = lambda _seen, _embedded: None,
    *,
    exact: bool = False,
) -> Nearest:
    """Return the ids of the `top` documents nearest to each query, (queries, dim); ties in the order of the source.

    `advanced` is told the number of documents compared, and of those with a vector. A document with a vector for
    every window is as near as its best one. `exact` compares all documents even if there is an index. Raises
    NothingEmbedded if the vectors are not as long as those of the queries.
    """
    best = Nearest(len(queries), top)
    windows = searched.keeps_windows
    size = max(1, min(BLOCK, PAGE_NUMBERS // queries.shape[1]))
    if windows:
        size = max(1, size // WINDOWS)
    with database.read() as transaction:
        length = vector_length(transaction, searched.spec_id)
    if length not in (None, queries.shape[1]):
        raise NothingEmbedded(LENGTHS_DIFFER.format(length, queries.shape[1]))
    n_seen = n_embedded = 0
    proposed = None if exact else ann.propose(database, searched, queries, top)
    pages = _pages(database, searched, size) if proposed is None else _pages_of(database, searched, proposed, size)
    for n_documents, vectors in pages:
        if vectors:
            best.offer(np.array([*vectors], np.int64), _scores(queries, [*vectors.values()], windows=windows))
        n_seen += n_documents
        n_embedded += len(vectors)
        advanced(n_seen, n_embedded)
    return best


def hits(
    database: Database, searched: Searched, query: Matrix, ids: Sequence[int], scores: Sequence[float]
) -> list[StoredHit]:
    """Return the documents of these ids, in this order, as hits of a query (dim,), without any removed meanwhile."""
    columns = (Document.id, Document.key, Document.meta, Document.content_id)
    with database.read() as transaction:
        rows = {row.id: row for row in transaction.execute(select(*columns).where(Document.id.in_(ids)))}
        own = {row.id: row.content_id for row in rows.values()}
        read = lineage.read_contents(transaction, searched.way, own)
        text_of = read_texts(transaction, {*read.values()})
        windows: Mapping[int, tuple[int, int]] = {}
        if searched.keeps_windows:
            windows = _best_windows(transaction, searched, query, {*read.values()})
    answers = []
    for document_id, score in zip(ids, scores, strict=True):
        if document_id not in read:
            continue
        row, content_id = rows[document_id], read[document_id]
        window = windows.get(content_id)
        answers.append(
            StoredHit(row.key, round(float(score), 6), text_of[content_id], row.meta, window, passage=window)
        )
    return answers


def _pages(database: Database, searched: Searched, size: int) -> Iterator[tuple[int, dict[int, bytes]]]:
    """Yield pages of the current documents in the order of the source: the number of documents, and {id: vector}.

    No transaction stays open while they are compared. The walk goes through the corpus and not through the spec's
    outcomes, which may belong to a hundred corpora.
    """
    documents = select(Document.seq, Document.id).select_from(Document)
    query, outcomes = lineage.join_outcomes(documents, searched.way, outer=True)
    outcome = outcomes[searched.way[-1].seq].c
    vector = case((outcome.status == "done", outcome.vector)).label("vector")
    query = query.add_columns(vector).where(Document.corpus_id == searched.corpus_id, is_current_document())
    query = query.order_by(Document.seq, Document.id).limit(size)
    position = lineage.START
    while True:
        with database.read() as transaction:
            transaction.prefer_index_order()
            after = query.where(tuple_(Document.seq, Document.id) > position)
            page = transaction.execute(after, execution_options={IN_BINARY: True}).all()
        yield len(page), {row.id: row.vector for row in page if row.vector is not None}
        if len(page) < size:
            return
        position = (page[-1].seq, page[-1].id)


def _pages_of(
    database: Database, searched: Searched, documents: Mapping[int, int], size: int
) -> Iterator[tuple[int, dict[int, bytes]]]:
    """Yield pages of these documents, given with their contents, as `_pages` does."""
    remaining = iter(documents.items())
    while page := dict(islice(remaining, size)):
        with database.read() as transaction:
            outcomes = _outcomes(transaction, searched, {*page.values()})
        vectors = {row.content_id: row.vector for row in outcomes}
        embedded = {document: vectors[content] for document, content in page.items() if content in vectors}
        yield len(page), embedded


def _scores(queries: Matrix, vectors: Sequence[bytes], *, windows: bool) -> Matrix:
    """Return the best cosine of each query with the windows of each content: (queries, contents)."""
    dim = queries.shape[1]
    scores, block, n_rows = [], [], 0
    for number, vector in enumerate(vectors, 1):
        block.append(vector)
        n_rows += len(vector) // (4 * dim)
        if n_rows >= BLOCK or number == len(vectors):
            scores.append(_best_of_each(queries, block, windows=windows))
            block, n_rows = [], 0
    return np.concatenate(scores, axis=1)


def _best_of_each(queries: Matrix, contents: Sequence[bytes], *, windows: bool) -> Matrix:
    dim = queries.shape[1]
    scores = cosines(queries, matrix_of(contents, dim, windows=windows))
    if scores.shape[1] == len(contents):
        return scores
    ends = np.cumsum([len(vector) // (4 * dim) for vector in contents])
    best: Matrix = np.maximum.reduceat(scores, [0, *ends[:-1]], axis=1)
    return best


def _best_windows(
    transaction: Transaction, searched: Searched, query: Matrix, content_ids: set[int]
) -> dict[int, tuple[int, int]]:
    windows = {}
    for row in _outcomes(transaction, searched, content_ids):
        scores = cosines(query[None], matrix_of([row.vector], len(query), windows=True))
        start, end = row.data["windows"][int(scores[0].argmax())]
        windows[row.content_id] = (start, end)
    return windows


def _outcomes(transaction: Transaction, searched: Searched, content_ids: set[int]) -> Sequence[AnyRow]:
    data = [OutcomeRow.data] if searched.keeps_windows else []
    query = select(OutcomeRow.content_id, OutcomeRow.vector, *data).where(
        OutcomeRow.spec_id == searched.spec_id, OutcomeRow.status == "done"
    )
    return transaction.probe(query, OutcomeRow.content_id, content_ids)


def _has_vectors(transaction: Transaction, searched: Searched) -> bool:
    transaction.prefer_indexes()
    documents = select(Document.id).where(Document.corpus_id == searched.corpus_id, is_current_document())
    query, outcomes = lineage.join_outcomes(documents.select_from(Document), searched.way)
    query = query.where(outcomes[searched.way[-1].seq].c.status == "done")
    return transaction.scalar(query.limit(1)) is not None


def _list_corpora(transaction: Transaction, kind: str) -> str:
    """Return advice for a corpus that does not exist: the corpora that do, or how to make one."""
    # Documents of a program that named no corpus are "python" and a digest (storage.readers.memory).
    named = select(Corpus.name).where(Corpus.name.not_like("python %"))
    names = list(transaction.scalars(named.order_by(Corpus.id.desc()).limit(LISTED + 1)))
    if not names:
        return f"`docmill run {kind} SOURCE` makes one"
    return f"there are: {', '.join(names[:LISTED])}{' and others' if len(names) > LISTED else ''}"


MOST = 200


def list_searchable(database: Database) -> list[str]:
    """Return the names of corpora with an embed job, in order."""
    embeds = (
        select(Job.id)
        .join(Step, Step.job_id == Job.id)
        .join(SpecRow, SpecRow.id == Step.spec_id)
        .where(Job.corpus_id == Corpus.id, SpecRow.kind.in_(_kinds(database)))
        .exists()
    )
    return list(database.values(select(Corpus.name).where(embeds).order_by(Corpus.name).limit(MOST)))
