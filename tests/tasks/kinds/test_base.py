"""The confidence of outcomes: of tokens, of labels, of spans and of answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from docmill.storage.core.specs import Outcome, Reason, Status
from docmill.tasks import kinds
from docmill.tasks.kinds.base import Traits
from docmill.tasks.kinds.classify import Classify, Entailment
from docmill.tasks.kinds.generate import Generate
from docmill.tasks.kinds.translate import Translate
from docmill.tasks.outputs import (
    Generated,
    Labels,
    Likelihood,
    Output,
    Several,
    Span,
    Spans,
    SpanScores,
    TokenScores,
    Vector,
    Vocabulary,
    Weights,
)
from docmill.tasks.specs.plan import build_spec
from docmill.tasks.windows.windows import Encoded, Window, cut_overlapping
from tests.tasks.conftest import data_of
from tests.tasks.fakes import join
from tests.tasks.kinds import test_answer, test_classify, test_redact
from tests.tasks.windows.test_windows import Letters


def joined(recipe: Any, outputs: list[Output | None]) -> Outcome:
    windows = [Window(n, n + 1, None if one is None else Encoded(3, "x")) for n, one in enumerate(outputs)]
    return join(recipe, "x" * 40, windows, outputs)


def text(total: float | None, least: float | None = None, tokens: int = 2) -> Generated:
    return Generated("words", tokens, likelihood=None if total is None else Likelihood(total, least, tokens))


@pytest.mark.parametrize("recipe", [Generate(), Translate()], ids=["generate", "translate"])
def test_a_text_has_the_mean_of_the_tokens_of_all_windows_and_their_least(recipe: Any) -> None:
    found = joined(recipe, [text(-2.0, -1.5, 2), None, text(-1.0, -0.5, 8)])
    assert found.mean_logprob == pytest.approx(-0.3)
    assert found.confidence == pytest.approx(math.exp(-0.3))
    assert found.least_logprob == -1.5


def test_of_several_texts_the_first_one_counts() -> None:
    several = Several((text(-2.0, -1.5, 4), text(-8.0, -4.0, 4)))
    assert joined(Generate(2), [several, several]).mean_logprob == -0.5


def test_a_window_whose_probabilities_are_not_known_leaves_the_whole_unknown() -> None:
    found = joined(Generate(), [text(-2.0, -1.5), text(None)])
    assert (found.confidence, found.mean_logprob, found.least_logprob) == (None, None, None)


@pytest.mark.parametrize("recipe", [Generate(), Translate()], ids=["generate", "translate"])
def test_a_text_whose_probabilities_are_no_numbers_is_a_failure_of_the_model(recipe: Any) -> None:
    found = joined(recipe, [text(-2.0, -1.5), text(math.nan, math.nan)])
    assert (found.status, found.reason_class, found.confidence) == (Status.FAILED, Reason.MODEL, None)


ONE = np.ones(1, np.float32)
RATHER = np.ones((1, 2), np.float32)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("kind", "output_of"),
    [
        ("classify", lambda bad: Labels({"a": bad, "b": 0.5})),
        ("embed", lambda bad: Vector(np.array([1, bad], np.float32))),
        ("sparse", lambda bad: Weights(Vocabulary(["a"]), np.zeros(1, np.int64), ONE * bad)),
        ("entities", lambda bad: TokenScores(["O", "A"], RATHER * bad)),
        ("redact", lambda bad: TokenScores(["O", "A"], RATHER * bad)),
        ("answer", lambda bad: SpanScores(ONE * bad, ONE, 0.0)),
        ("answer", lambda bad: SpanScores(ONE, ONE * bad, 0.0)),
        ("answer", lambda bad: SpanScores(ONE, ONE, bad)),
    ],
)
def test_a_number_that_is_not_finite_fails_the_document_as_the_models_fault(
    kind: str, output_of: Callable[[float], Output], bad: float
) -> None:
    asked = {"question": "Who?"} if kind == "answer" else {}
    recipe = kinds.recipe(build_spec(kind, test_answer.PINNED, kinds.options(kind, **asked), {}), Traits())
    (windows,) = cut_overlapping(["x"], Letters(10))
    found = join(recipe, "x", windows, [output_of(bad)])
    assert (found.status, found.reason_class, found.text, found.data) == (Status.FAILED, Reason.MODEL, None, None)
    assert "not finite" in (found.reason or "")


def test_labels_have_the_margin_between_the_best_and_the_second_whichever_are_kept() -> None:
    one = Classify(top_k=1)
    assert joined(one, [Labels({"a": 0.1, "b": 0.7, "c": 0.2})]).confidence == pytest.approx(0.5)
    assert joined(one, [Labels({"a": 0.25})]).confidence == 0.5


def test_labels_that_are_scored_each_by_itself_have_the_margin_of_the_least_decided() -> None:
    both = {"a": 0.99, "b": 0.9, "c": 0.2}
    assert joined(Classify(), [Labels(both, "each")]).confidence == pytest.approx(0.6)
    logits = [(0.0, math.log(4)), (9.0, -9.0)]
    for multi_label, expected in ((True, 0.6), (False, 1.0)):
        recipe = test_classify.recipe(test_classify.SENTENCES, multi_label=multi_label)
        assert isinstance(recipe, Entailment)
        assert test_classify.join_pairs(recipe, logits, [9]).confidence == pytest.approx(expected, abs=1e-3)


def test_a_regression_has_no_confidence() -> None:
    assert joined(Classify(), [Labels({"stars": 0.9}, "free")]).confidence is None


def test_spans_have_the_least_of_their_scores_and_no_spans_none() -> None:
    spec = build_spec("entities", test_answer.PINNED, kinds.options("entities"), {})
    recipe = kinds.recipe(spec, Traits())
    spans = Spans((Span("PER", 0, 1, 0.75), Span("LOC", 2, 3, 0.5)))
    assert joined(recipe, [spans]).confidence == 0.5
    assert joined(recipe, [Spans(())]).confidence is None


def test_a_redacted_text_has_the_confidence_of_what_the_model_found_and_of_no_pattern() -> None:
    content = f"Ana Pérez has {test_redact.MAIL}."
    assert test_redact.redacted(content, [Spans((Span("per", 0, 9, 0.75),))]).confidence == 0.75
    assert test_redact.redacted(content).confidence is None


def test_answers_have_the_least_of_their_probabilities() -> None:
    recipe = test_answer.recipe(test_answer.spec({"one": "Who was it?", "two": "Where was it?"}))
    content = "Ada met Bob"
    [windows] = recipe.cut([content], test_answer.Beside("", 100))
    sure = test_answer.scores(windows[0], "Ada", content, -50.0)
    none = test_answer.scores(windows[1], "Bob", content, 14.0)
    found = test_answer.join_answers(recipe, content, windows, [sure, none])
    record = data_of(found)["data"]
    assert record["one"] == "Ada"
    assert record["two"] is None
    assert found.confidence == pytest.approx(min(record["one_score"], record["two_no_answer"]))
