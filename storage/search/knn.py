"""Exact search for the nearest vectors: cosines block by block, with the best so far."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from docmill.storage.errors import NothingEmbedded

Matrix = npt.NDArray[np.float32]

LENGTHS_DIFFER = (
    "vectors of this model have {:,} numbers, and others {:,}: the server has another model under the same name. "
    "Give it a name of its own with --revision, and embed the corpus again"
)


def matrix_of(vectors: Sequence[bytes], dim: int, *, windows: bool = False) -> Matrix:
    """Return stored vectors as the rows of a matrix (vectors, dim). With `windows` each may have several rows.

    Raises NothingEmbedded for a vector of another length.
    """
    for vector in vectors:
        if len(vector) % (4 * dim) or not (windows or len(vector) == 4 * dim):
            raise NothingEmbedded(LENGTHS_DIFFER.format(dim, len(vector) // 4))
    return np.frombuffer(b"".join(vectors), "<f4").reshape(-1, dim)


def cosines(queries: Matrix, vectors: Matrix) -> Matrix:
    """Return the cosines (queries, vectors) of queries (queries, dim) with vectors (vectors, dim).

    The cosine with a vector of length 0 is 0. They are computed in float64 and rounded: the order of additions in a
    matrix product depends on a row's place, and one text must have one score everywhere.
    """
    rows = queries.astype(np.float64)
    columns = vectors.astype(np.float64)
    products = (rows / _lengths(rows)[:, None]) @ columns.T
    products /= _lengths(columns)
    return products.astype(np.float32)


def _lengths(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the divisors that bring rows to length 1; a row of zeros has the divisor 1."""
    lengths: npt.NDArray[np.float64] = np.linalg.norm(rows, axis=1)
    return np.where(lengths > 0, lengths, 1.0)


class Nearest:
    """The `top` highest scores of each query so far. Of equal scores the first offered stays.

    `scores` and `ids` have shape (queries, found), best first.
    """

    def __init__(self, n_queries: int, top: int) -> None:
        self.scores: Matrix = np.empty((n_queries, 0), np.float32)
        self.ids: npt.NDArray[np.int64] = np.empty((n_queries, 0), np.int64)
        self._top = top

    def offer(self, ids: npt.NDArray[np.int64], scores: Matrix) -> None:
        """Add candidates with ids (candidates,) and scores (queries, candidates)."""
        scores = np.concatenate([self.scores, scores], axis=1)
        everywhere = np.broadcast_to(ids, (len(scores), len(ids)))
        best = _highest(scores, self._top)
        self.scores = np.take_along_axis(scores, best, axis=1)
        self.ids = np.take_along_axis(np.concatenate([self.ids, everywhere], axis=1), best, axis=1)


def _highest(scores: Matrix, top: int) -> npt.NDArray[np.intp]:
    """Return the columns of each row's highest scores, highest first; of equal scores the first columns.

    Only the chosen ones are sorted. A partition alone would choose among equal scores arbitrarily.
    """
    n_rows, n_columns = scores.shape
    if n_columns <= top:
        return np.argsort(-scores, axis=1, kind="stable")
    least = np.partition(scores, n_columns - top, axis=1)[:, n_columns - top, None]
    above = scores > least
    room = top - above.sum(axis=1, keepdims=True)
    equal = scores == least
    chosen = above | (equal & (equal.cumsum(axis=1) <= room))
    columns = np.nonzero(chosen)[1].reshape(n_rows, top)
    order = np.argsort(-np.take_along_axis(scores, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)
