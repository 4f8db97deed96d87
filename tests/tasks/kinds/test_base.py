"""The confidence of outcomes: texts, labels, spans and answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from docmill.storage.core.specs import Reason, Status
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
from docmill.tasks.windows.windows import cut_overlapping
from tests.tasks.conftest import data_of
from tests.tasks.fakes import join, join_outputs, plan_spec
from tests.tasks.kinds import test_answer, test_classify, test_redact
from tests.tasks.windows.test_windows import Letters


def text(total: float | None, least: float | None = None, tokens: int = 2) -> Generated:
    return Generated("words", tokens, likelihood=None if total is None else Likelihood(total, least, tokens))


@pytest.mark.parametrize("recipe", [Generate(), Translate()], ids=["generate", "translate"])
def test_a_text_has_the_mean_of_the_tokens_of_all_windows_and_their_least(recipe: Any) -> None:
    outcome = join_outputs(recipe, [text(-2.0, -1.5, 2), None, text(-1.0, -0.5, 8)])
    assert outcome.mean_logprob == pytest.approx(-0.3)
    assert outcome.confidence == pytest.approx(math.exp(-0.3))
    assert outcome.least_logprob == -1.5


def test_the_first_of_several_texts_counts() -> None:
    several = Several((text(-2.0, -1.5, 4), text(-8.0, -4.0, 4)))
    assert join_outputs(Generate(2), [several, several]).mean_logprob == -0.5


def test_a_window_without_probabilities_leaves_the_text_without_confidence() -> None:
    outcome = join_outputs(Generate(), [text(-2.0, -1.5), text(None)])
    assert (outcome.confidence, outcome.mean_logprob, outcome.least_logprob) == (None, None, None)


@pytest.mark.parametrize("recipe", [Generate(), Translate()], ids=["generate", "translate"])
def test_a_text_with_nan_probabilities_is_a_failure_of_the_model(recipe: Any) -> None:
    outcome = join_outputs(recipe, [text(-2.0, -1.5), text(math.nan, math.nan)])
    assert (outcome.status, outcome.reason_class, outcome.confidence) == (Status.FAILED, Reason.MODEL, None)


ONES = np.ones(1, np.float32)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("kind", "output_of"),
    [
        ("classify", lambda bad: Labels({"a": bad, "b": 0.5})),
        ("embed", lambda bad: Vector(np.array([1, bad], np.float32))),
        ("sparse", lambda bad: Weights(Vocabulary(["a"]), np.zeros(1, np.int64), ONES * bad)),
        ("entities", lambda bad: TokenScores(["O", "A"], np.full((1, 2), bad, np.float32))),
        ("redact", lambda bad: TokenScores(["O", "A"], np.full((1, 2), bad, np.float32))),
        ("answer", lambda bad: SpanScores(ONES * bad, ONES, 0.0)),
        ("answer", lambda bad: SpanScores(ONES, ONES * bad, 0.0)),
        ("answer", lambda bad: SpanScores(ONES, ONES, bad)),
    ],
)
def test_a_number_that_is_not_finite_fails_the_document_as_the_models_fault(
    kind: str, output_of: Callable[[float], Output], bad: float
) -> None:
    options: dict[str, Any] = {"question": "Who?"} if kind == "answer" else {}
    recipe = kinds.recipe(plan_spec(kind, **options), Traits())
    (windows,) = cut_overlapping(["x"], Letters(10))
    outcome = join(recipe, "x", windows, [output_of(bad)])
    assert (outcome.status, outcome.reason_class) == (Status.FAILED, Reason.MODEL)
    assert (outcome.text, outcome.data) == (None, None)
    assert "not finite" in (outcome.reason or "")


def test_labels_have_the_margin_between_the_two_best_however_many_are_kept() -> None:
    classify = Classify(top_k=1)
    assert join_outputs(classify, [Labels({"a": 0.1, "b": 0.7, "c": 0.2})]).confidence == pytest.approx(0.5)
    assert join_outputs(classify, [Labels({"a": 0.25})]).confidence == 0.5


def test_labels_with_separate_scores_have_the_margin_of_the_least_decided_label() -> None:
    scores = {"a": 0.99, "b": 0.9, "c": 0.2}
    assert join_outputs(Classify(), [Labels(scores, "each")]).confidence == pytest.approx(0.6)
    logits = [(0.0, math.log(4)), (9.0, -9.0)]
    for multi_label, expected in ((True, 0.6), (False, 1.0)):
        recipe = test_classify.entailment(test_classify.SENTENCES, multi_label=multi_label)
        assert isinstance(recipe, Entailment)
        assert test_classify.join_pairs(recipe, logits, [9]).confidence == pytest.approx(expected, abs=1e-3)


def test_a_regression_has_no_confidence() -> None:
    assert join_outputs(Classify(), [Labels({"stars": 0.9}, "free")]).confidence is None


def test_spans_have_the_least_of_their_scores_as_confidence_and_no_spans_have_none() -> None:
    recipe = kinds.recipe(plan_spec("entities"), Traits())
    spans = Spans((Span("PER", 0, 1, 0.75), Span("LOC", 2, 3, 0.5)))
    assert join_outputs(recipe, [spans]).confidence == 0.5
    assert join_outputs(recipe, [Spans(())]).confidence is None


def test_a_redacted_text_has_the_confidence_of_the_models_findings_but_none_of_patterns() -> None:
    content = f"Ana Pérez has {test_redact.MAIL}."
    assert test_redact.redact(content, [Spans((Span("per", 0, 9, 0.75),))]).confidence == 0.75
    assert test_redact.redact(content).confidence is None


def test_answers_have_the_least_of_their_probabilities() -> None:
    recipe = test_answer.recipe_for(test_answer.spec_for({"one": "Who was it?", "two": "Where was it?"}))
    content = "Ada met Bob"
    [windows] = recipe.cut([content], test_answer.QuestionCoder("", 100))
    sure = test_answer.make_scores(windows[0], "Ada", content, -50.0)
    none = test_answer.make_scores(windows[1], "Bob", content, 14.0)
    outcome = test_answer.join_answers(recipe, content, windows, [sure, none])
    record = data_of(outcome)["data"]
    assert record["one"] == "Ada"
    assert record["two"] is None
    assert outcome.confidence == pytest.approx(min(record["one_score"], record["two_no_answer"]))
