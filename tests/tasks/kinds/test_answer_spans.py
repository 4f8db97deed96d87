"""The best answers are those of a plain loop that scores every span."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.tasks.kinds.answer_spans import Answers, ScoredTokens, best_answers
from docmill.tasks.outputs import SpanScores
from docmill.tasks.windows.windows import Places, stretches


@dataclass(frozen=True)
class Case:
    """A text whose tokens stand at ``places``, in windows of at most ``room`` tokens with scores of their own."""

    text: str
    places: list[tuple[int, int]]
    windows: list[ScoredTokens]


PIECES = st.sampled_from(
    ["word", "漢字", "e\u0301", "한국", "שלום", "🇨🇭", "\u200b", "\u3000", " ", " a", "b ", "\n\n", ".", "\u00a0x", ""]
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a text. Its tokens may hold white space, share characters or leave some out."""
    text, places = "", []
    for piece in draw(st.lists(PIECES, max_size=25)):
        text += draw(st.sampled_from(["", "", " ", "\t\n"]))  # no token stands here
        place = (len(text), len(text) + len(piece))
        text += piece
        places += [place] * draw(st.sampled_from([1, 1, 1, 2, 3]))  # as the bytes of a character
    room, overlap = draw(st.integers(4, 30)), draw(st.integers(0, 8))
    numbers = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    windows = []
    for first, end in stretches(len(places), room, overlap):
        starts, ends = numbers.normal(0, 4, (2, end - first)).astype(np.float32)
        scores = SpanScores(starts, ends, float(numbers.normal(0, 4)))
        windows.append((places_of(places[first:end], first), scores))
    return Case(text + draw(st.sampled_from(["", " ", "end"])), places, windows)


def places_of(tokens: Sequence[tuple[int, int]], first: int = 0) -> Places:
    """Return the places of a window's tokens. ``first`` tokens of the text stand before the window."""
    starts, ends = array("i", (start for start, _ in tokens)), array("i", (end for _, end in tokens))
    return Places(1, starts, ends, array("b", bytes(len(tokens))), first)


def by_hand(case: Case, longest: int) -> list[tuple[int, int, float, float]]:
    """Return an answer for each stretch of characters, as (start, end, logit, score), the best first."""
    spans: dict[tuple[int, int], float] = {}
    for first in range(len(case.places)):
        for last in range(first, min(first + longest, len(case.places))):
            begin, end = case.places[first][0], case.places[last][1]
            if not case.text[begin:end].strip():
                continue
            for window, scores in case.windows:
                if window.first <= first and last < window.first + len(window):
                    span_logit = scores.starts[first - window.first] + scores.ends[last - window.first]
                    spans[first, last] = max(float(span_logit), spans.get((first, last), -math.inf))
    null = min(scores.null for _, scores in case.windows if scores.null is not None)
    total = math.fsum(map(math.exp, [*spans.values(), null]))
    at: dict[tuple[int, int], float] = {}
    for (first, last), logit in spans.items():
        begin, end = case.places[first][0], case.places[last][1]
        begin += len(case.text[begin:end]) - len(case.text[begin:end].lstrip())
        end = begin + len(case.text[begin:end].rstrip())
        at[begin, end] = max(logit, at.get((begin, end), -math.inf))
    answers = ((*place, logit, math.exp(logit) / total) for place, logit in at.items())
    return sorted(answers, key=lambda answer: -answer[2])


@given(cases(), st.integers(1, 8), st.integers(1, 40))
def test_the_answers_are_the_best_of_all_spans_that_are_scored_by_hand(case: Case, longest: int, count: int) -> None:
    answers = best_answers(case.text, case.windows, longest=longest, count=count)
    expected = by_hand(case, longest)
    assert [(span.start, span.end) for span in answers.spans] == [span[:2] for span in expected[:count]]
    assert [span.logit for span in answers.spans] == [span[2] for span in expected[:count]]
    assert [span.score for span in answers.spans] == pytest.approx([span[3] for span in expected[:count]])
    null = min(scores.null for _, scores in case.windows if scores.null is not None)
    assert answers.null_logit == null
    assert answers.no_answer is not None
    if len(expected) == len(answers.spans) and len({*case.places}) == len(case.places):
        assert math.fsum([answers.no_answer, *(span.score for span in answers.spans)]) <= 1 + 1e-9


def two_windows(*nulls: float | None) -> list[ScoredTokens]:
    """Return two windows over "ab cd". The best answers are "ab" with a logit of 5, and "cd" with 3."""
    first_scores = [np.array([3, -9], np.float32), np.array([2, -9], np.float32)]
    second_scores = [np.array([-9, 1.5], np.float32), np.array([-9, 1.5], np.float32)]
    return [
        (places_of([(0, 2), (3, 5)]), SpanScores(starts, ends, null))
        for (starts, ends), null in zip((first_scores, second_scores), nulls, strict=True)
    ]


@pytest.mark.parametrize(
    ("nulls", "threshold", "answered"),
    [
        ((5.5, 9.0), 0.0, False),
        ((9.0, 5.5), 0.4, False),
        ((9.0, 5.5), 0.5, True),
        ((9.0, 5.0), 0.0, True),
        ((9.0, 4.5), -0.6, False),
        ((9.0, 4.5), -0.5, True),
        ((None, None), -99.0, True),
    ],
)
def test_there_is_no_answer_if_the_lowest_null_score_is_higher_by_more_than_the_threshold(
    nulls: tuple[float | None, float | None], threshold: float, answered: bool
) -> None:
    answers = best_answers("ab cd", two_windows(*nulls), longest=2, count=3)
    assert (answers.answer(threshold) is not None) is answered
    assert [(span.start, span.end, span.logit) for span in answers.spans][:2] == [(0, 2, 5.0), (3, 5, 3.0)]


def test_without_the_null_score_there_is_an_answer_and_the_scores_add_up_without_it() -> None:
    answers = best_answers("ab cd", two_windows(99.0, 99.0), longest=2, count=3, with_null=False)
    assert (answers.null_logit, answers.no_answer) == (None, None)
    assert answers.answer(0.0) == answers.spans[0]
    assert math.fsum(span.score for span in answers.spans) == pytest.approx(1)


@pytest.mark.parametrize("null", [None, 2.0])
def test_a_text_without_tokens_has_no_answer(null: float | None) -> None:
    nothing = np.zeros(0, np.float32)
    answers = best_answers("\u200b", [(places_of([]), SpanScores(nothing, nothing, null))], longest=5, count=2)
    assert answers == Answers((), null, None if null is None else 1.0)
    assert answers.answer(99.0) is None


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(1, 9))
def test_of_answers_with_the_same_score_the_first_in_the_text_comes_first(logits: list[int], count: int) -> None:
    scores = np.array(logits, np.float32)
    places = range(len(logits))
    window = places_of([(place, place + 1) for place in places]), SpanScores(scores, scores, 0.0)
    answers = best_answers("a" * len(logits), [window], longest=1, count=count)
    assert [span.start for span in answers.spans] == sorted(places, key=lambda place: -logits[place])[:count]


def test_no_answer_ends_before_its_start_where_tokens_stand_out_of_order() -> None:
    scores = SpanScores(np.array([9, 0], np.float32), np.array([0, 9], np.float32), 0.0)
    answers = best_answers("one two", [(places_of([(4, 7), (0, 3)]), scores)], longest=2, count=3)
    assert [(span.start, span.end) for span in answers.spans] == [(0, 3), (4, 7)]
