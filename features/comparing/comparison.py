"""The comparison of two jobs: agreement, flags, confidence and a sample, in one walk through the corpus.

Embeddings take a second walk, for the neighbors of a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlalchemy import select

from docmill.features.comparing.agreement import AGREEMENTS, Measures, Sureness, share
from docmill.storage.core.database import Database
from docmill.storage.core.lookups import is_current_document, pages, read_keys
from docmill.storage.core.schema import Document
from docmill.storage.core.specs import StoredOutcome
from docmill.storage.errors import StorageError
from docmill.storage.outputs.output_types import VECTOR, OutputType, read_confidence
from docmill.storage.results.results import Reservoir
from docmill.storage.search.knn import Matrix, Nearest, cosines
from docmill.storage.steps import lineage
from docmill.storage.steps.jobs import require
from docmill.storage.steps.steps import OpenStep, find_named_way, read_steps

K = 10
QUERIES = 200
PAGE = 1_000
REMOVED = "(removed)"  # the id of a document that was removed while jobs were compared
Result = dict[str, Any]  # the output in its JSON form, with "flags", and with those of `CONFIDENCE` that are known


@dataclass(frozen=True)
class Side:
    """One of the two steps that are compared, with its job. `way` leads to the step."""

    job_id: int
    way: tuple[OpenStep, ...]
    output: OutputType

    @property
    def step(self) -> OpenStep:
        return self.way[-1]


@dataclass(frozen=True)
class ComparedDocument:
    """A document and its result by each job; None if it has no result."""

    document_id: int
    key: str
    content_id: int
    a: Result | None
    b: Result | None


def read_side(database: Database, corpus_id: int, job_id: int, step: str | None) -> Side:
    """Return the step of a job by its name, or its only step.

    Raises NotFound, and StorageError for a job of another corpus, or if a job of several steps needs a name.
    """
    job = require(database, job_id)
    if job.corpus_id != corpus_id:
        raise StorageError(f"job {job_id} belongs to another corpus; `docmill status {job_id}` names it")
    with database.read() as transaction:
        steps = read_steps(transaction, job_id)
    if step is None and len(steps) > 1:
        names = ", ".join(other.name for other in steps)
        raise StorageError(f"job {job_id} has several steps: name one with --step ({names})")
    way = tuple(find_named_way(steps, step))
    return Side(job_id, way, database.kind_of(way[-1].lane).output)


def read_pairs(database: Database, corpus_id: int, a: Side, b: Side) -> Iterator[list[ComparedDocument]]:
    """Yield the current documents with their results by each step, in pages."""
    columns = (Document.id, Document.key, Document.content_id)
    query = select(*columns).where(Document.corpus_id == corpus_id, is_current_document())
    for page in pages(database, query, Document.id, PAGE):
        own = {row.id: row.content_id for row in page}
        with database.read() as transaction:
            of_a, of_b = (
                lineage.read_outcomes(transaction, side.way, own, lineage.RESULT)[side.step.seq] for side in (a, b)
            )
        yield [ComparedDocument(*row, _read(a, of_a.get(row.id)), _read(b, of_b.get(row.id))) for row in page]


def find_keys(database: Database, neighborhoods: Sequence[Neighborhood]) -> dict[int, str]:
    """Return the ids by which users know the documents of neighborhoods, or `REMOVED`."""
    ids = {n for near in neighborhoods for n in (near.document_id, *near.a, *near.b)}
    with database.read() as transaction:
        return dict.fromkeys(ids, REMOVED) | read_keys(transaction, ids)


def _read(of: Side, outcome: StoredOutcome | None) -> Result | None:
    if outcome is None or outcome.status != "done":
        return None
    return {**of.output.result(outcome), "flags": outcome.flags, **read_confidence(outcome)}


@dataclass
class JobComparison:
    """Two jobs over the current documents of a corpus.

    `differing` of the `both` documents with two results have other outputs, and `samples` are drawn from them. For
    embeddings, `neighborhoods` are those that differ most, and there are no samples.
    """

    a: Side
    b: Side
    documents: int = 0
    both: int = 0
    only_a: int = 0
    only_b: int = 0
    differing: int = 0
    measures: Measures = field(default_factory=dict)
    sure_a: Sureness = field(default_factory=Sureness)
    sure_b: Sureness = field(default_factory=Sureness)
    samples: Sequence[ComparedDocument] = ()
    neighborhoods: Sequence[Neighborhood] = ()


def compare(
    database: Database,
    corpus_id: int,
    a: Side,
    b: Side,
    *,
    samples: int,
    seed: int,
    advanced: Callable[[int], None],
) -> JobComparison:
    """Compare two jobs. `advanced` gets the number of documents read. Raises StorageError if output types differ."""
    if a.output.name != b.output.name:
        raise StorageError(
            f"job {a.job_id} gives {a.output.plural}, and job {b.job_id} {b.output.plural}: only results of one type "
            "can be compared"
        )
    comparison, agreement = JobComparison(a, b), AGREEMENTS[a.output.name]()
    is_embedding = a.output is VECTOR
    sample = Reservoir[ComparedDocument](QUERIES if is_embedding else samples, seed)
    for page in read_pairs(database, corpus_id, a, b):
        for pair in page:
            comparison.documents += 1
            if pair.a is None or pair.b is None:
                comparison.only_a += pair.a is not None
                comparison.only_b += pair.b is not None
                continue
            comparison.sure_a.add(pair.a)
            comparison.sure_b.add(pair.b)
            if not agreement.add(pair.a, pair.b) or is_embedding:
                sample.offer(pair)
        advanced(comparison.documents)
    comparison.both, comparison.differing = agreement.n, agreement.n - agreement.identical
    comparison.measures = agreement.measures()
    if not is_embedding:
        comparison.samples = sample.kept
        return comparison
    near = find_neighborhoods(sample.kept, read_pairs(database, corpus_id, a, b))
    comparison.measures[f"recall_at_{K}"] = share(sum(neighborhood.recall for neighborhood in near), len(near))
    near.sort(key=lambda neighborhood: (neighborhood.recall, neighborhood.document_id))
    comparison.neighborhoods = near[:samples]
    return comparison


@dataclass(frozen=True)
class Neighborhood:
    """The nearest other documents of a document, by the vectors of each job, the nearest first."""

    document_id: int
    a: tuple[int, ...]
    b: tuple[int, ...]

    @property
    def recall(self) -> float:
        """The share of A's nearest documents that are among B's."""
        return len({*self.a} & {*self.b}) / len(self.a) if self.a else 1.0


def find_neighborhoods(
    queries: Sequence[ComparedDocument], of_documents: Iterable[Sequence[ComparedDocument]]
) -> list[Neighborhood]:
    """Return the neighborhoods of these documents among all documents with both vectors, which come in pages.

    If a document has a vector for each window, its nearest window counts. As a query it has the mean of its vectors.
    """
    if not queries:
        return []
    query_vectors = [np.stack([_mean(side) for side in sides]) for sides in zip(*map(_unpack, queries), strict=True)]
    best = [Nearest(len(queries), K + 1) for _ in query_vectors]
    for page in of_documents:
        both = [pair for pair in page if pair.a is not None and pair.b is not None]
        if not both:
            continue
        ids = np.array([pair.document_id for pair in both], np.int64)
        for place, (of_side, nearest) in enumerate(zip(query_vectors, best, strict=True)):
            nearest.offer(ids, _score(of_side, [_unpack(pair)[place] for pair in both]))
    around = []
    for row, pair in enumerate(queries):
        of_a, of_b = (
            tuple(other for other in nearest.ids[row].tolist() if other != pair.document_id)[:K] for nearest in best
        )
        around.append(Neighborhood(pair.document_id, of_a, of_b))
    return around


def _unpack(pair: ComparedDocument) -> tuple[Matrix, Matrix]:
    assert pair.a is not None
    assert pair.b is not None
    return np.atleast_2d(pair.a["vector"]), np.atleast_2d(pair.b["vector"])


def _mean(vectors: Matrix) -> Matrix:
    mean: Matrix = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def _score(queries: Matrix, documents: Sequence[Matrix]) -> Matrix:
    """Return the best cosine of each query with the windows of each document: (queries, documents)."""
    scores = cosines(queries, np.concatenate(documents))
    starts = np.cumsum([0, *(len(windows) for windows in documents)])[:-1]
    best: Matrix = np.maximum.reduceat(scores, starts, axis=1)
    return best
