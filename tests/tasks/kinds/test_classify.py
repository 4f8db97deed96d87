"""The scores of a text's windows are combined, and the best labels come first."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.core.outcomes import Outcome, Reason, Status
from storage.outputs.output_types import LABELS
from tasks import kinds
from tasks.kinds.base import Computed
from tasks.kinds.classify import Classify
from tasks.kinds.label_scores import Combination
from tasks.outputs import Labels
from tasks.specs.pinning import Pinned
from tasks.specs.plan import build_spec
from tasks.windows.windows import Encoded, Window

PINNED = Pinned("model", "0" * 40)


def join(recipe: Classify, windows: list[dict[str, float]], tokens: list[int]) -> Outcome:
    cut = [Window(n, n + 1, Encoded(count, "x"), part=len(windows) > 1) for n, count in enumerate(tokens)]
    joined = recipe.join(Computed(7, "x" * len(windows), cut, [Labels(one) for one in windows], 1, sum(tokens), 0))
    assert isinstance(joined, Outcome)
    return joined


def scores(outcome: Outcome) -> dict[str, float]:
    assert outcome.data is not None
    return {one["label"]: one["score"] for one in outcome.data["labels"]}


def test_the_mean_of_the_windows_is_weighted_by_their_tokens() -> None:
    outcome = join(Classify(Combination()), [{"a": 0.9, "b": 0.1}, {"a": 0.1, "b": 0.9}], [10, 30])
    assert scores(outcome) == pytest.approx({"b": 0.7, "a": 0.3})
    assert (outcome.text, outcome.flags) == ("b", ("windowed",))


def test_the_highest_score_of_each_label_is_taken_if_asked_for() -> None:
    outcome = join(Classify(Combination(take_max=True)), [{"a": 0.9, "b": 0.1}, {"a": 0.2, "b": 0.8}], [10, 30])
    assert scores(outcome) == {"a": 0.9, "b": 0.8}


def test_only_the_best_labels_are_kept_if_asked_for() -> None:
    window = {"a": 0.1, "b": 0.6, "c": 0.3}
    assert list(scores(join(Classify(Combination(top_k=2)), [window], [5]))) == ["b", "c"]
    assert list(scores(join(Classify(Combination(top_k=9)), [window], [5]))) == ["b", "c", "a"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_fails_the_document_as_the_models_fault(bad: float) -> None:
    outcome = join(Classify(Combination()), [{"a": 0.5, "b": 0.5}, {"a": bad, "b": 0.5}], [5, 5])
    assert (outcome.status, outcome.reason_class, outcome.data) == (Status.FAILED, Reason.MODEL, None)
    assert "not finite" in (outcome.reason or "")


SCORES = st.lists(st.floats(0, 1), min_size=3, max_size=3).map(lambda row: dict(zip("abc", row, strict=True)))
WINDOWS = st.lists(st.tuples(SCORES, st.integers(1, 500)), min_size=1, max_size=8)


@given(WINDOWS, st.booleans())
def test_a_combined_score_lies_between_those_of_the_windows(
    windows: list[tuple[dict[str, float], int]], take_max: bool
) -> None:
    given_scores = [one for one, _ in windows]
    outcome = join(Classify(Combination(take_max)), given_scores, [tokens for _, tokens in windows])
    for label, score in scores(outcome).items():
        row = [one[label] for one in given_scores]
        assert min(row) - 1e-12 <= score <= max(row) + 1e-12
        assert score == max(row) or not take_max
    assert LABELS.problem(outcome) is None


@given(SCORES, st.integers(1, 500), st.booleans())
def test_a_text_of_one_window_has_the_scores_of_the_window(
    window: dict[str, float], tokens: int, take_max: bool
) -> None:
    outcome = join(Classify(Combination(take_max)), [window], [tokens])
    assert scores(outcome) == window
    assert outcome.flags == ()


def test_a_default_that_is_written_out_makes_the_same_spec() -> None:
    plain = build_spec("classify", PINNED, kinds.options("classify"), {})
    spelt = build_spec(
        "classify", PINNED, kinds.options("classify", aggregate="mean", multi_label=False, top_k=0), {}
    )
    assert plain == spelt
    assert plain.params == {"algorithm": 2}
    other = build_spec("classify", PINNED, kinds.options("classify", aggregate="max", multi_label=True, top_k=3), {})
    assert other.params == {"algorithm": 2, "aggregate": "max", "multi_label": True, "top_k": 3}
