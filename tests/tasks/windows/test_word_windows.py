"""Texts are cut at words into windows that overlap, within a limit of words and one of tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from docmill.tasks.windows.windows import Encoded, Window
from docmill.tasks.windows.word_windows import WordReader, Words, cut_at_words, decided, stretches_of_words

OVERHEAD = 3


def words(text: str) -> Words:
    """Return the words between white space; a word has a token for each two letters."""
    found = [*re.finditer(r"\S+", text)]
    return Words(
        [one.start() for one in found], [one.end() for one in found], [(len(one[0]) + 1) // 2 for one in found]
    )


def reader(most_words: int = 6, limit_tokens: int = 20) -> WordReader:
    return WordReader(words, most_words, limit_tokens, OVERHEAD, 2)


TOKENS = st.lists(st.integers(0, 9), min_size=1, max_size=60)


@given(TOKENS, st.integers(1, 12), st.integers(1, 30), st.integers(1, 12))
def test_stretches_hold_every_word_and_keep_to_both_limits(
    tokens: Sequence[int], most_words: int, room: int, widest: int
) -> None:
    found = stretches_of_words(tokens, most_words, room, widest)
    assert {word for first, end in found for word in range(first, end)} == {*range(len(tokens))}
    assert all(earlier[0] < later[0] and earlier[1] <= later[1] for earlier, later in pairwise(found))
    for first, end in found:
        assert end - first <= most_words
        assert sum(tokens[first:end]) <= room or end - first == 1


@given(st.integers(20, 200), st.integers(4, 30))
def test_stretches_of_like_words_overlap_by_a_quarter(n_words: int, most_words: int) -> None:
    found = stretches_of_words([1] * n_words, most_words, 10_000, 1)
    for (_, end), (first, _) in pairwise(found):
        assert end - first >= most_words // 4


def test_a_text_that_fits_is_one_window_with_the_white_space_at_its_ends() -> None:
    texts = ["  one two ", "", "\n \t"]
    assert cut_at_words(texts, reader()) == [
        [Window(0, 10, Encoded(OVERHEAD + 4, "  one two "))],
        [Window(0, 0, Encoded(OVERHEAD, ""))],
        [Window(0, 3, Encoded(OVERHEAD, "\n \t"))],
    ]


def test_windows_of_a_long_text_are_whole_words_at_their_places() -> None:
    text = " ".join(f"w{number}" for number in range(20))
    (windows,) = cut_at_words([text], reader())
    assert len(windows) > 1
    assert all(window.part for window in windows)
    for window in windows:
        assert window.encoded is not None
        assert window.encoded.features == text[window.start : window.end]
        assert re.fullmatch(r"w\d+( w\d+){0,5}", text[window.start : window.end])
        assert window.encoded.tokens <= 20


def test_a_word_that_is_longer_than_a_window_is_a_window_of_its_own() -> None:
    (windows,) = cut_at_words(["one " + "x" * 100 + " two"], reader())
    assert [window.end - window.start for window in windows] == [3, 100, 3]
    assert all(window.encoded is not None and window.encoded.tokens <= 20 for window in windows)


WINDOWS = [Window(0, 40, None), Window(20, 60, None), Window(50, 90, None)]


def test_a_span_counts_in_the_window_with_the_better_context_only() -> None:
    in_both = ("a", 22, 25, 0.6)
    assert decided(WINDOWS, [[in_both], [], []]) == [in_both]
    assert decided(WINDOWS, [[], [in_both], []]) == []
    late = ("a", 35, 38, 0.6)
    assert decided(WINDOWS, [[late], [("b", 35, 38, 0.5)], []]) == [("b", 35, 38, 0.5)]
    assert decided(WINDOWS, [[("first", 0, 1, 0.5)], [], [("last", 89, 90, 0.5)]]) == [
        ("first", 0, 1, 0.5),
        ("last", 89, 90, 0.5),
    ]


def test_of_spans_from_two_windows_that_overlap_the_best_stays() -> None:
    one, other = ("a", 27, 31, 0.7), ("b", 30, 33, 0.9)
    assert decided(WINDOWS, [[one], [other], []]) == [other]


def test_the_spans_of_a_single_window_stay_as_they_were_found() -> None:
    spans = [("a", 1, 4, 0.4), ("b", 4, 6, 0.9)]
    assert sorted(decided([WINDOWS[0]], [spans])) == spans
