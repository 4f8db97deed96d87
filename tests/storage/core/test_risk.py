"""A risk is a logistic regression whose numbers are stored; what is not known of a result counts as the mean."""

from __future__ import annotations

import math
from typing import Any

import pytest

from docmill.storage.core.risk import Feature, RiskModel

MODEL = RiskModel(
    -1.0,
    (
        Feature("flag repetition", 0.25, 0.5, 1.0),
        Feature("confidence", 0.5, 0.1, -2.0),
        Feature("tokens_out_per_in", 1.0, 0.5, 0.5),
        Feature("tokens_in", 500.0, 100.0, 0.1),
    ),
)


def result(**more: Any) -> dict[str, Any]:
    return {"flags": [], "tokens_in": 500, "tokens_out": 500, **more}


def test_a_risk_is_the_logistic_function_of_the_features_in_their_scales() -> None:
    z = -1.0 + (1 - 0.25) / 0.5 - 2.0 * (0.7 - 0.5) / 0.1 + 0.5 * (1.5 - 1.0) / 0.5 + 0.1 * (400 - 500) / 100
    found = MODEL.of(result(flags=["windowed", "repetition"], confidence=0.7, tokens_in=400, tokens_out=600))
    assert found == pytest.approx(1 / (1 + math.exp(-z)))
    unknown = MODEL.of(result())
    assert unknown == pytest.approx(1 / (1 + math.exp(1.0 + 0.25 / 0.5)))
    assert MODEL.of(result(confidence=0.5)) == unknown


def test_very_long_texts_and_a_text_without_tokens_have_a_risk_too() -> None:
    assert MODEL.of(result(tokens_in=10**9, tokens_out=10**9)) == MODEL.of(result(tokens_in=1_000, tokens_out=1_000))
    assert 0 < MODEL.of(result(tokens_in=0, tokens_out=5)) < 1
    assert RiskModel(-1e9, ()).of(result()) == 0.0
    assert RiskModel(1e9, ()).of(result()) == 1.0


def test_a_model_is_the_same_once_it_was_stored() -> None:
    assert RiskModel.stored(MODEL.to_json()) == MODEL
