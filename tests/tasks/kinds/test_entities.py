"""Each token of a text is labelled once, whatever the windows, and its entities are those of transformers."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import TokenClassificationPipeline
from transformers.pipelines.token_classification import AggregationStrategy

from docmill.storage.core.specs import Outcome
from docmill.storage.outputs.output_types import SPANS
from docmill.tasks.kinds.entities import Entities, entities, names
from docmill.tasks.outputs import Span, Spans, TokenScores
from docmill.tasks.windows.windows import Encoded, Places, Window, cut_overlapping
from tests.tasks.conftest import data_of
from tests.tasks.fakes import join
from tests.tasks.windows.test_windows import Letters

LABELS = ("O", "B-UP", "I-UP")


def make_scores(window: Window, text: str) -> TokenScores:
    """Return scores that make words of capitals entities, but for the tokens at the edges of a window."""
    places = window.places
    assert places is not None
    rows = np.zeros((len(places), 3), dtype=np.float32)
    for number, start in enumerate(places.starts):
        cut = (number == 0 and start > 0) or (number == len(places) - 1 and places.ends[number] < len(text.rstrip()))
        label = 0 if cut or not text[start].isupper() else 2 if places.inside[number] else 1
        rows[number, label] = 0.75
    return TokenScores(LABELS, rows)


def spans_of(outcome: Outcome) -> list[dict[str, Any]]:
    assert SPANS.problem(outcome) is None
    return list(data_of(outcome)["spans"])


TEXTS = st.lists(st.sampled_from(["AB", "ABCDEFGHIJ", "ab", "c", " ", "\n", "D"]), min_size=1, max_size=60)


@given(TEXTS.map("".join).filter(str.strip), st.integers(10, 30))
def test_a_long_text_has_the_entities_of_the_text_in_one_window(text: str, limit: int) -> None:
    outcomes = []
    for tokens in (limit, 10_000):
        (windows,) = cut_overlapping([text], Letters(tokens))
        outcomes.append(join(Entities(), text, windows, [make_scores(window, text) for window in windows]))
        assert outcomes[-1].flags == (("windowed",) if len(windows) > 1 else ())
    assert spans_of(outcomes[0]) == spans_of(outcomes[1])


def test_spans_that_a_backend_finds_are_moved_to_their_window() -> None:
    windows = [Window(0, 4, Encoded(1, "abc "), part=True), Window(4, 7, Encoded(1, "def"), part=True)]
    outputs = [Spans((Span("x", 0, 3, 1.0),)), Spans((Span("x", 1, 3, 0.5),))]
    outcome = join(Entities(), "abc def", windows, outputs)
    assert [(span["text"], span["start"], span["end"]) for span in spans_of(outcome)] == [("abc", 0, 3), ("ef", 5, 7)]


def test_a_text_without_tokens_has_no_entities() -> None:
    nothing = Places(1, array("i"), array("i"), array("b"))
    window = Window(0, 1, Encoded(2, {"input_ids": [1, 2]}, places=nothing))
    assert spans_of(join(Entities(), "\u200b", [window], [TokenScores(LABELS, np.zeros((0, 3), np.float32))])) == []


TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC", "geo-thing", "I-O")
WORDS = st.lists(st.booleans(), min_size=0, max_size=14)


def by_transformers(scores: Any, inside: list[bool], strategy: str) -> list[tuple[str, int, int, float]]:
    """Return the entities of tokens of one character each, by transformers' pipeline."""
    pipeline = TokenClassificationPipeline.__new__(TokenClassificationPipeline)
    config: Any = SimpleNamespace(id2label=dict(enumerate(TAGS)))
    pipeline.model = SimpleNamespace(config=config)
    pipeline.tokenizer = SimpleNamespace(convert_tokens_to_string="".join)
    tokens = [
        {"word": "x", "scores": row, "start": n, "end": n + 1, "index": n, "is_subword": inside[n]}
        for n, row in enumerate(scores)
    ]
    groups = pipeline.aggregate(tokens, AggregationStrategy(strategy))
    return [
        (group["entity_group"], group["start"], group["end"], float(group["score"]))
        for group in groups
        if group["entity_group"] != "O"
    ]


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
@given(inside=WORDS, seed=st.integers(0, 2**32 - 1), steps=st.sampled_from([0, 4]))
def test_entities_are_those_of_transformers(strategy: Any, inside: list[bool], seed: int, steps: int) -> None:
    scores = np.random.default_rng(seed).random((len(inside), len(TAGS)), dtype=np.float32)
    if steps:  # many scores are the same
        scores = np.round(scores * steps) / np.float32(steps)
    text = "x" * len(inside)
    places = range(len(inside))
    actual = entities(text, TAGS, scores, [*places], [n + 1 for n in places], inside, strategy)
    expected = by_transformers(scores, inside, strategy)
    assert [entity[:3] for entity in actual] == [entity[:3] for entity in expected]
    assert {label for label, *_ in actual} <= names(TAGS) == {"PER", "LOC", "MISC", "thing"}
    assert [entity[3] for entity in actual] == pytest.approx([entity[3] for entity in expected], abs=1e-6)


def test_white_space_at_the_ends_of_an_entity_is_left_out() -> None:
    scores = np.array([[0.1, 0.9], [0.1, 0.9], [0.9, 0.1], [0.2, 0.8]], dtype=np.float32)
    actual = entities("a Bo c \n", ("O", "PER"), scores, [1, 3, 4, 6], [3, 4, 6, 8], [0, 1, 0, 0], "simple")
    (entity,) = actual
    assert entity[:3] == ("PER", 2, 4)
    assert entity[3] == pytest.approx((0.9 + 0.9) / 2)
