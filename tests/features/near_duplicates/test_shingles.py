"""Sets of shingles, their similarity, and the union of what is similar."""

from __future__ import annotations

import numpy as np
import pytest

from docmill.features.near_duplicates.components import Components
from docmill.features.near_duplicates.methods import ByText, jaccard
from docmill.features.near_duplicates.texts import Signed, choose_rows, hash_bands, probability, propose_pairs


@pytest.mark.parametrize(
    ("method", "text", "shingles"),
    [
        (ByText(size=2), "The  cat, the CAT\nsat", {"the cat", "cat the", "cat sat"}),
        (ByText(), "Two words", {"two words"}),
        (ByText(), " … ", set()),
        (ByText(unit="characters", size=3), "A\n bcd", {"a b", " bc", "bcd"}),
        (ByText(unit="characters", size=9), "Short", {"short"}),
        (ByText(unit="characters", size=9), "\n", set()),
    ],
)
def test_shingles_are_runs_without_case_punctuation_and_line_breaks(
    method: ByText, text: str, shingles: set[str]
) -> None:
    assert method.shingles(text) == shingles


def test_the_similarity_is_that_of_jaccard() -> None:
    assert jaccard({"a", "b", "c"}, {"b", "c", "d"}) == 0.5
    assert jaccard({"a"}, {"a"}) == 1.0
    assert jaccard(set(), set()) == 0.0


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95, 1.0])
def test_a_pair_at_the_threshold_is_nearly_always_a_candidate(threshold: float) -> None:
    assert probability(threshold, choose_rows(threshold)) >= 0.99


def test_signatures_depend_on_nothing_but_the_set_and_the_seed() -> None:
    # As they are stored, so that another version of the library, or of ours, does not compare them with its own.
    bands = hash_bands([{"a b c", "b c d"}, {"x"}], choose_rows(0.8), 1)
    assert bands.shape == (2, 21)
    assert bands[0, :2].tolist() == [2124553466, 3592613793]
    assert (bands == hash_bands([{"b c d", "a b c"}, {"x"}], choose_rows(0.8), 1)).all()
    assert (bands != hash_bands([{"a b c", "b c d"}, {"x"}], choose_rows(0.8), 2)).any()


def test_only_pairs_with_a_new_text_are_candidates_and_no_pair_twice() -> None:
    same = np.ones((4, 3), np.uint32)
    signed = Signed(same, np.array([10, 10, 10, 0]), np.array([False, False, True, True]))
    components = Components(4)
    proposed = [
        (int(text), int(other))
        for band in range(3)
        for pairs in propose_pairs(signed, 0.8, components, band)
        for text, other in zip(*pairs, strict=True)
    ]
    assert sorted(proposed) == [(0, 2), (1, 2)]
    components.join(0, 2)
    left = [pairs for pairs in propose_pairs(signed, 0.8, components, 0) for pairs in zip(*pairs, strict=True)]
    assert [(int(text), int(other)) for text, other in left] == [(1, 2)]


def test_a_pair_that_a_crowded_band_leaves_out_is_a_candidate_of_a_later_band(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("docmill.features.near_duplicates.texts.NEIGHBORS", 1)
    bands = np.array([[7, 1], [7, 2], [7, 1]], np.uint32)
    signed = Signed(bands, np.array([10, 10, 10]), np.ones(3, np.bool_))
    [(ones, others)] = propose_pairs(signed, 0.8, Components(3), 1)
    assert (ones.tolist(), others.tolist()) == ([0], [2])


def test_a_text_within_another_is_a_candidate_at_the_threshold_itself() -> None:
    signed = Signed(np.ones((2, 1), np.uint32), np.array([55, 100]), np.ones(2, np.bool_))
    [(ones, others)] = propose_pairs(signed, 0.55, Components(2), 0)
    assert (ones.tolist(), others.tolist()) == ([0], [1])
