"""The best of many candidates in blocks, compared with a sort of all of them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.storage.search.knn import Matrix, Nearest, cosines

# Few values, so that many are equal.
ROWS = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(st.integers(-3, 3), min_size=n, max_size=n), min_size=1, max_size=40)
)


@given(ROWS, st.integers(1, 12), st.lists(st.integers(1, 15), max_size=8))
def test_blocks_of_any_size_give_the_best_of_a_stable_sort(rows: list[list[int]], top: int, sizes: list[int]) -> None:
    scores: Matrix = np.array(rows, np.float32).T
    ids = np.arange(scores.shape[1]) * 7 + 3
    best = Nearest(len(scores), top)
    borders = [0, *np.cumsum(sizes).tolist(), len(ids)]
    for start, end in pairwise(borders):
        best.offer(ids[start : max(start, end)], scores[:, start : max(start, end)])
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    assert best.ids.tolist() == ids[expected].tolist()
    assert best.scores.tolist() == np.take_along_axis(scores, expected, axis=1).tolist()


def _random(n: int, dim: int = 384) -> Matrix:
    return np.random.default_rng(n).standard_normal((n, dim)).astype(np.float32)


@pytest.mark.parametrize("n_queries", [1, 7])
def test_a_vector_has_the_same_score_at_every_place(n_queries: int) -> None:
    vectors = _random(997)
    vectors[[3, 64, 511, 996]] = vectors[0]
    scores = cosines(_random(n_queries), vectors)
    alone = cosines(_random(n_queries), vectors[:1])
    assert (scores[:, [3, 64, 511, 996]] == scores[:, :1]).all()
    assert (alone == scores[:, :1]).all()


def test_a_cosine_does_not_depend_on_lengths_and_is_0_beside_a_vector_of_length_0() -> None:
    query, vectors = _random(2), _random(5)
    vectors[4] = 0.0
    scores = cosines(query, vectors)
    assert (scores[:, 4] == 0.0).all()
    assert cosines(query * 8, vectors * 1e18) == pytest.approx(scores, abs=1e-6)
    expected = query @ vectors[:4].T / np.outer(np.linalg.norm(query, axis=1), np.linalg.norm(vectors[:4], axis=1))
    assert scores[:, :4] == pytest.approx(expected, abs=1e-6)
