"""Scores of tokens become entities as in transformers' token-classification pipeline."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import TokenClassificationPipeline
from transformers.pipelines.token_classification import AggregationStrategy

from tasks.kinds.aggregation import entities

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC", "geo-thing", "I-O")
WORDS = st.lists(st.booleans(), min_size=0, max_size=14)


def by_transformers(scores: Any, inside: list[bool], strategy: str) -> list[tuple[str, int, int, float]]:
    """Return the entities of tokens of a character each, by the methods of transformers' pipeline."""
    pipeline = TokenClassificationPipeline.__new__(TokenClassificationPipeline)
    config: Any = SimpleNamespace(id2label=dict(enumerate(LABELS)))
    pipeline.model = SimpleNamespace(config=config)
    pipeline.tokenizer = SimpleNamespace(convert_tokens_to_string="".join)
    tokens = [
        {"word": "x", "scores": row, "start": n, "end": n + 1, "index": n, "is_subword": inside[n]}
        for n, row in enumerate(scores)
    ]
    found = pipeline.aggregate(tokens, AggregationStrategy(strategy))
    return [
        (one["entity_group"], one["start"], one["end"], float(one["score"]))
        for one in found
        if one["entity_group"] != "O"
    ]


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
@given(inside=WORDS, seed=st.integers(0, 2**32 - 1), steps=st.sampled_from([0, 4]))
def test_entities_are_those_of_transformers(strategy: Any, inside: list[bool], seed: int, steps: int) -> None:
    scores = np.random.default_rng(seed).random((len(inside), len(LABELS)), dtype=np.float32)
    if steps:  # many scores are the same
        scores = np.round(scores * steps) / np.float32(steps)
    text = "x" * len(inside)
    places = range(len(inside))
    found = entities(text, LABELS, scores, [*places], [n + 1 for n in places], inside, strategy)
    wanted = by_transformers(scores, inside, strategy)
    assert [one[:3] for one in found] == [one[:3] for one in wanted]
    assert [one[3] for one in found] == pytest.approx([one[3] for one in wanted], abs=1e-6)


def test_white_space_at_the_ends_of_an_entity_is_left_out() -> None:
    scores = np.array([[0.1, 0.9], [0.1, 0.9], [0.9, 0.1], [0.2, 0.8]], dtype=np.float32)
    found = entities("a Bo c \n", ("O", "PER"), scores, [1, 3, 4, 6], [3, 4, 6, 8], [0, 1, 0, 0], "simple")
    (entity,) = found
    assert entity[:3] == ("PER", 2, 4)
    assert entity[3] == pytest.approx((0.9 + 0.9) / 2)
