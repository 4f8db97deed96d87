"""The overlap of nearest neighbours by the vectors of two jobs, exact, on a sample, in flat memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from docmill.storage.results.pairs import Pair
from docmill.storage.search.knn import Matrix, Nearest, cosines
from docmill.worker.comparing.agreement import overlap

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
