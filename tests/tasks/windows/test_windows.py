"""Windows cover their text, fit the model, and decide each token once."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from semantic_text_splitter import TextSplitter

from docmill.tasks.windows.paragraphs import has_signs, paragraphs, unwrapped
from docmill.tasks.windows.windows import (
    LONG_CHARS_PER_TOKEN,
    Encoded,
    Places,
    Window,
    WordReader,
    Words,
    cut,
    cut_at_words,
    cut_overlapping,
    decided,
    deciding,
    split,
    stretches,
    stretches_of_words,
)

UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
WORDS = ["word", "a", "naïve", "東京は", "e\u0301", "👩\u200d👩\u200d👧", "x" * 90]
BETWEEN = [". ", "! ", " ", "\t", "\n", "\r\n", "\n\n", "- ", "…"]
PROSE = st.lists(st.sampled_from([*WORDS, *BETWEEN]), max_size=120).map("".join)
TEXTS = st.one_of(UNICODE, PROSE)


class Characters:
    """A coder whose tokens are characters and two special tokens."""

    def __init__(self, limit_tokens: int) -> None:
        self.limit_tokens = limit_tokens
        self.seen = 0

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        self.seen += len(texts)
        return [Encoded(len(text) + 2, text) for text in texts]


def pieces(text: str, windows: list[Window]) -> list[str]:
    return [text[window.start : window.end] for window in windows]


@given(TEXTS, st.integers(6, 80))
@example("   \r\n \t ", 6)
@example("x" * 500, 9)
@example("one two\r\nthree\r\n\r\nfour", 10)
def test_windows_put_back_together_are_the_text(text: str, limit: int) -> None:
    (windows,) = cut([text], Characters(limit))
    assert "".join(pieces(text, windows)) == text
    assert all(window.encoded is None or window.encoded.tokens <= limit for window in windows)


@given(TEXTS, st.integers(6, 80))
@example("- a b\n- c d\n", 6)
def test_trimmed_windows_and_what_lies_between_are_the_text(text: str, limit: int) -> None:
    assume(not has_signs(text))
    (windows,) = cut([text], Characters(limit), sections=paragraphs, clean=unwrapped, trim=True)
    end = 0
    for window in windows:
        assert end <= window.start < window.end
        assert not any(character.isalnum() for character in text[end : window.start]) or is_label(
            text[end : window.start]
        )
        end = window.end
    assert not any(character.isalnum() for character in text[end:])


def is_label(between: str) -> bool:
    """Return True if a text between paragraphs has no more than an item's number or letter."""
    return len("".join(character for character in between if character.isalnum())) <= 3


def test_a_text_that_fits_is_one_window_and_is_encoded_once() -> None:
    coder = Characters(50)
    (windows,) = cut(["A sentence. And another.\n\nA paragraph."], coder)
    assert len(windows) == 1
    assert coder.seen == 1


def whole_split(text: str, limit: int) -> list[tuple[int, int]]:
    """Return the pieces that the splitter cuts from the whole text at once."""
    spans, start = [], 0
    for piece in TextSplitter.from_callback(len, limit, trim=False).chunks(text):
        spans.append((start, start + len(piece)))
        start += len(piece)
    return spans


@pytest.mark.parametrize("limit", [16, 33])
def test_blocks_of_a_long_text_are_cut_as_the_whole_would_be(limit: int) -> None:
    words = Random(limit).choices(["word", "a", "naïve", "one.", "Two!", "more\n", "end.\n\n"], k=1500)
    text = " ".join(words)
    assert split(text, len, limit) == whole_split(text, limit)


def test_a_window_of_few_tokens_has_a_limit_of_characters() -> None:
    spans = split("x" * 100_000, lambda piece: 1, 50)
    assert max(end - start for start, end in spans) == 50 * LONG_CHARS_PER_TOKEN
    assert spans[-1][1] == 100_000


FIRST, LAST = -1, -2


@dataclass(frozen=True)
class Letters:
    """A coder whose tokens are the characters other than white space, between two special tokens."""

    limit_tokens: int

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return [letters(text) for text in texts]


def letters(text: str) -> Encoded:
    places = [place for place, letter in enumerate(text) if not letter.isspace()]
    ids = array("i", [FIRST, *(ord(text[place]) for place in places), LAST])
    inside = array("b", [place > 0 and not text[place - 1].isspace() for place in places])
    starts = array("i", places)
    ends = array("i", [place + 1 for place in places])
    leading = 1 if places else len(ids)  # without tokens of the text, all special tokens are leading
    features = {"input_ids": ids, "token_type_ids": array("i", [0] * len(ids))}
    return Encoded(len(ids), features, places=Places(leading, starts, ends, inside))


def places_of(window: Window) -> Places:
    assert window.places is not None
    return window.places


@given(st.integers(0, 3000), st.integers(8, 600))
def test_stretches_cover_all_tokens_and_overlap_by_a_quarter(tokens: int, room: int) -> None:
    windows = stretches(tokens, room)
    assert (windows[0][0], windows[-1][1]) == (0, tokens)
    assert all(end - first == min(room, tokens) for first, end in windows)
    for earlier, later in pairwise(windows):
        assert earlier[1] - later[0] >= room // 4
        assert earlier[0] < later[0]


def context(window: tuple[int, int], token: int, tokens: int) -> float:
    """Return the distance of a token from the nearest end of its window that is not an end of the text."""
    first, end = window
    if not first <= token < end:
        return -1
    return min(token - first if first else math.inf, end - 1 - token if end < tokens else math.inf)


@given(st.integers(1, 400), st.integers(8, 60))
def test_a_token_is_decided_once_in_the_window_with_the_best_context(tokens: int, room: int) -> None:
    windows = stretches(tokens, room)
    decides = deciding(windows)
    for token in range(tokens):
        owners = [
            number
            for number, (first, end) in enumerate(windows)
            if first <= token < end and decides[number][token - first]
        ]
        contexts = [context(window, token, tokens) for window in windows]
        assert owners == [int(np.argmax(contexts))]


LETTERED = st.text("ab \n", min_size=1, max_size=200).filter(str.strip)


@given(LETTERED, st.integers(10, 40), st.integers(5, 60))
@example("     aaaaa ", 10, 5)
def test_the_tokens_of_the_windows_are_those_of_the_text(text: str, limit: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("docmill.tasks.windows.windows.BLOCK_CHARS", block)
        (windows,) = cut_overlapping([text], Letters(limit))
    whole = letters(text)
    stretches_of_windows = [(places.first, places.first + len(places)) for places in map(places_of, windows)]
    ids: list[int] = []
    starts: list[int] = []
    for window, decides in zip(windows, deciding(stretches_of_windows), strict=True):
        assert window.encoded is not None
        assert window.encoded.tokens == len(window.encoded.ids) <= max(limit, 0)
        assert (window.encoded.ids[0], window.encoded.ids[-1]) == (FIRST, LAST)
        assert len(window.encoded.feature("token_type_ids")) == window.encoded.tokens
        ids += np.asarray(window.encoded.ids)[1:-1][decides].tolist()
        starts += np.asarray(places_of(window).starts)[decides].tolist()
    assert ids == [*whole.ids][1:-1]
    assert starts == [place for place, letter in enumerate(text) if not letter.isspace()]
    assert [window.part for window in windows] == [len(windows) > 1] * len(windows)


def test_without_places_of_tokens_windows_do_not_overlap() -> None:
    class Plain(Letters):
        def encode(self, texts: Sequence[str]) -> list[Encoded]:
            return [Encoded(len(text), text) for text in texts]

    (windows,) = cut_overlapping(["word " * 10], Plain(20))
    assert all(earlier.end == later.start for earlier, later in pairwise(windows))
    assert len(windows) > 1


OVERHEAD = 3


def words(text: str) -> Words:
    """Return the words between white space; a word has a token for each two letters."""
    matches = [*re.finditer(r"\S+", text)]
    tokens = [(len(match[0]) + 1) // 2 for match in matches]
    return Words([match.start() for match in matches], [match.end() for match in matches], tokens)


def reader(most_words: int = 6, limit_tokens: int = 20) -> WordReader:
    return WordReader(words, most_words, limit_tokens, OVERHEAD, 2)


TOKENS = st.lists(st.integers(0, 9), min_size=1, max_size=60)


@given(TOKENS, st.integers(1, 12), st.integers(1, 30), st.integers(1, 12))
def test_stretches_hold_every_word_and_keep_to_both_limits(
    tokens: Sequence[int], most_words: int, room: int, widest: int
) -> None:
    windows = stretches_of_words(tokens, most_words, room, widest)
    assert {word for first, end in windows for word in range(first, end)} == {*range(len(tokens))}
    assert all(earlier[0] < later[0] and earlier[1] <= later[1] for earlier, later in pairwise(windows))
    for first, end in windows:
        assert end - first <= most_words
        assert sum(tokens[first:end]) <= room or end - first == 1


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
