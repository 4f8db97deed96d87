"""The comparison of two jobs: agreement, flags, confidence and a sample, in one walk through the corpus.

Embeddings take a second walk, for the neighbours of a sample.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from docmill.features.comparing import comparison, pairs
from docmill.features.comparing.agreement import AGREEMENTS, Measures, Sureness, overlap
from docmill.features.comparing.pairs import Pair, Side
from docmill.storage.core.database import Database
from docmill.storage.errors import StorageError
from docmill.storage.search.knn import Matrix, Nearest, cosines

T = TypeVar("T")
VECTOR = "vector"


@dataclass(frozen=True)
class Comparison:
    """Two jobs over the current documents of a corpus.

    `differing` of the `both` documents with two results have other outputs, and `samples` are drawn from them; of
    embeddings they are those whose `neighbourhoods` differ most.
    """

    a: Side
    b: Side
    documents: int
    both: int
    only_a: int
    only_b: int
    differing: int
    measures: Measures
    sure_a: Sureness
    sure_b: Sureness
    samples: tuple[Pair, ...]
    neighbourhoods: tuple[Neighbourhood, ...] = ()


class Reservoir(Generic[T]):
    """A random sample of so many things of a stream, each with the same chance."""

    def __init__(self, size: int, seed: int) -> None:
        self.kept: list[T] = []
        self._size = size
        self._chance = random.Random(seed)  # noqa: S311 - a sample that can be repeated
        self._met = 0

    def offer(self, one: T) -> None:
        """Take it, or leave it."""
        self._met += 1
        if len(self.kept) < self._size:
            self.kept.append(one)
        elif (place := self._chance.randrange(self._met)) < self._size:
            self.kept[place] = one


@dataclass
class _Counts:
    documents: int = 0
    both: int = 0
    only_a: int = 0
    only_b: int = 0
    differing: int = 0
    sure_a: Sureness = field(default_factory=Sureness)
    sure_b: Sureness = field(default_factory=Sureness)


def compare(
    database: Database,
    corpus_id: int,
    a: Side,
    b: Side,
    *,
    samples: int,
    seed: int,
    advanced: Callable[[int], None] = lambda _seen: None,
) -> Comparison:
    """Compare two jobs. `advanced` is told the number of documents read. Raises StorageError for other outputs."""
    if a.output.name != b.output.name:
        raise StorageError(
            f"job {a.job_id} gives {a.output.plural}, and job {b.job_id} {b.output.plural}: only results of one type "
            "can be compared"
        )
    agreement, counts = AGREEMENTS[a.output.name](), _Counts()
    shown = Reservoir[Pair](samples, seed)
    queries = Reservoir[Pair](comparison.QUERIES if a.output.name == VECTOR else 0, seed)
    for page in pairs.pairs(database, corpus_id, a, b):
        for pair in page:
            counts.documents += 1
            if pair.a is None or pair.b is None:
                counts.only_a += pair.a is not None
                counts.only_b += pair.b is not None
                continue
            counts.both += 1
            counts.sure_a.add(pair.a)
            counts.sure_b.add(pair.b)
            queries.offer(pair)
            if not agreement.add(pair.a, pair.b):
                counts.differing += 1
                shown.offer(pair)
        advanced(counts.documents)
    measures, near = agreement.measures(), list[Neighbourhood]()
    if a.output.name == VECTOR:
        near = comparison.neighbourhoods(queries.kept, pairs.pairs(database, corpus_id, a, b))
        n = len(near)
        measures[f"recall_at_{comparison.K}"] = sum(one.recall for one in near) / n if n else None
        near.sort(key=lambda one: (one.recall, one.document_id))
        by_id = {pair.document_id: pair for pair in queries.kept}
        shown.kept = [by_id[one.document_id] for one in near[:samples] if one.recall < 1]
    return Comparison(
        a, b, **vars(counts), measures=measures, samples=tuple(shown.kept), neighbourhoods=tuple(near[:samples])
    )


K = 10
QUERIES = 200


@dataclass(frozen=True)
class Neighbourhood:
    """The nearest other documents of a document, by the vectors of each job, the nearest first."""

    document_id: int
    a: tuple[int, ...]
    b: tuple[int, ...]

    @property
    def recall(self) -> float:
        """The share of A's nearest documents that are among B's."""
        return overlap(self.a, self.b)


def neighbourhoods(queries: Sequence[Pair], pages: Iterable[Sequence[Pair]], k: int = K) -> list[Neighbourhood]:
    """Return the neighbourhoods of these documents among all that have both vectors.

    A document with a vector for each window is as near as its nearest window, and as a query it has their mean.
    """
    if not queries:
        return []
    asked = [np.stack([_mean(side) for side in sides]) for sides in zip(*map(_vectors, queries), strict=True)]
    best = [Nearest(len(queries), k + 1) for _ in asked]
    for page in pages:
        both = [pair for pair in page if pair.a is not None and pair.b is not None]
        if not both:
            continue
        ids = np.array([pair.document_id for pair in both], np.int64)
        for place, (of_side, nearest) in enumerate(zip(asked, best, strict=True)):
            nearest.offer(ids, _scores(of_side, [_vectors(pair)[place] for pair in both]))
    found = []
    for row, pair in enumerate(queries):
        of_a, of_b = (
            tuple(one for one in nearest.ids[row].tolist() if one != pair.document_id)[:k] for nearest in best
        )
        found.append(Neighbourhood(pair.document_id, of_a, of_b))
    return found


def _vectors(pair: Pair) -> tuple[Matrix, Matrix]:
    assert pair.a is not None
    assert pair.b is not None
    return np.atleast_2d(pair.a["vector"]), np.atleast_2d(pair.b["vector"])


def _mean(vectors: Matrix) -> Matrix:
    mean: Matrix = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def _scores(queries: Matrix, documents: Sequence[Matrix]) -> Matrix:
    """Return the best cosine of each query with the windows of each document: (queries, documents)."""
    found = cosines(queries, np.concatenate(documents))
    starts = np.cumsum([0, *(len(one) for one in documents)])[:-1]
    best: Matrix = np.maximum.reduceat(found, starts, axis=1)
    return best
