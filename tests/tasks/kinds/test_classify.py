"""The scores of a text's windows are combined, and the best label is the text's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.storage.core.specs import Outcome, Spec, Status
from docmill.tasks.kinds import instruction
from docmill.tasks.kinds.classify import CONTRADICTION, ENTAILMENT, Classify, Entailment
from docmill.tasks.outputs import Labels
from docmill.tasks.windows.windows import Coder, Encoded, Window
from tests.tasks.conftest import data_of
from tests.tasks.fakes import join, join_outputs


def join_windows(recipe: Classify, windows: list[dict[str, float]], tokens: list[int]) -> Outcome:
    return join_outputs(recipe, [Labels(window) for window in windows], tokens)


def scores_of(outcome: Outcome) -> dict[str, float]:
    return {row["label"]: row["score"] for row in data_of(outcome)["labels"]}


def test_the_mean_of_the_windows_is_weighted_by_their_tokens() -> None:
    outcome = join_windows(Classify(), [{"a": 0.9, "b": 0.1}, {"a": 0.1, "b": 0.9}], [10, 30])
    assert scores_of(outcome) == pytest.approx({"b": 0.7, "a": 0.3})
    assert (outcome.text, outcome.flags) == ("b", ("windowed",))


SCORES = st.lists(st.floats(0, 1), min_size=3, max_size=3).map(lambda row: dict(zip("abc", row, strict=True)))


SENTENCES = {"sports": "It is about sports.", "the economy": "It is about money and trade in all of the world."}
LIMIT_TOKENS = 20


@dataclass(frozen=True)
class Words:
    """A coder whose tokens are words: those of a text, then those of a sentence."""

    sentence: str = ""
    limit_tokens: int = LIMIT_TOKENS

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return [Encoded(len(text.split()) + len(self.sentence.split()), f"{text}|{self.sentence}") for text in texts]


def entailment(sentences: dict[str, str], *, multi_label: bool = False, take_max: bool = False) -> Entailment:
    pairs: Callable[[str], Coder] = Words
    return Entailment(sentences, pairs, multi_label, Classify(take_max))


def join_pairs(recipe: Entailment, logits: Sequence[tuple[float, float]], tokens: Sequence[int]) -> Outcome:
    """Return the outcome of windows with these tokens. Logits are pairs of entailment and contradiction."""
    windows = [Window(0, 1, Encoded(count, "x")) for count in tokens for _ in recipe.sentences]
    outputs = [Labels({ENTAILMENT: yes, CONTRADICTION: no}) for yes, no in logits]
    return join(recipe, "x", windows, outputs)


TEXTS = st.lists(st.sampled_from(["a", "bb", "ccc.", "\n\n"]), max_size=60).map(" ".join)


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_every_window_is_there_once_for_each_label_and_fits_with_its_sentence(texts: list[str]) -> None:
    for text, windows in zip(texts, entailment(SENTENCES).cut(texts, Words()), strict=True):
        pairs = [window for window in windows if window.encoded is not None]
        for first, second in zip(pairs[::2], pairs[1::2], strict=True):
            assert (first.start, first.end, first.part) == (second.start, second.end, second.part)
            for window, sentence in zip((first, second), SENTENCES.values(), strict=True):
                assert window.encoded is not None
                assert window.encoded.features == f"{text[window.start : window.end]}|{sentence}"
                assert window.encoded.tokens <= LIMIT_TOKENS
        once = [window for window in windows if window.encoded is None] + pairs[::2]
        once.sort(key=lambda window: window.start)
        assert "".join(text[window.start : window.end] for window in once) == text


@pytest.mark.parametrize(("take_max", "expected"), [(False, 0.5 * 0.25 + 0.75 / (1 + math.e)), (True, 0.5)])
def test_windows_are_combined_as_those_of_a_classifier(take_max: bool, expected: float) -> None:
    logits = [(3.0, 0.0), (3.0, 0.0), (0.0, 0.0), (1.0, 0.0)]
    outcome = join_pairs(entailment(SENTENCES, take_max=take_max), logits, [10, 30])
    assert scores_of(outcome)["sports"] == pytest.approx(expected)


def test_large_logits_do_not_overflow_and_those_that_are_not_finite_fail_the_document() -> None:
    recipe = entailment(SENTENCES)
    assert scores_of(join_pairs(recipe, [(5000.0, 0.0), (4999.0, 0.0)], [10])).keys() == SENTENCES.keys()
    for logit in (math.nan, math.inf):
        assert join_pairs(recipe, [(logit, 0.0), (1.0, 0.0)], [10]).status is Status.FAILED


@pytest.mark.parametrize("chat", [True, False])
def test_an_instruction_does_not_depend_on_the_order_of_labels_which_postgresql_changes(chat: bool) -> None:
    orders = ("praise", "complaint"), ("complaint", "praise")
    specs = [Spec("classify", "m", "0", params={"labels": {label: label for label in order}}) for order in orders]
    first, second = (instruction(spec, chat=chat) for spec in specs)
    assert first == second
