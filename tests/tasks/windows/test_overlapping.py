"""A long text is cut into windows of its tokens that overlap, and each token is decided in one of them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.tasks.windows import overlapping
from docmill.tasks.windows.overlapping import cut_overlapping, deciding, stretches
from docmill.tasks.windows.places import Places
from docmill.tasks.windows.windows import Encoded, Window

FIRST, LAST = -1, -2


@dataclass(frozen=True)
class Letters:
    """A coder whose tokens are the characters that are no white space, between two special tokens."""

    limit_tokens: int

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return [letters(text) for text in texts]


def letters(text: str) -> Encoded:
    places = [place for place, letter in enumerate(text) if not letter.isspace()]
    ids = array("i", [FIRST, *(ord(text[place]) for place in places), LAST])
    inside = array("b", [place > 0 and not text[place - 1].isspace() for place in places])
    starts = array("i", places)
    kept = Places(1, starts, array("i", [place + 1 for place in places]), inside)
    return Encoded(len(ids), {"input_ids": ids, "token_type_ids": array("i", [0] * len(ids))}, places=kept)


def places_of(window: Window) -> Places:
    assert window.encoded is not None
    assert window.encoded.places is not None
    return window.encoded.places


@given(st.integers(0, 3000), st.integers(8, 600))
def test_stretches_cover_all_tokens_and_overlap_by_a_quarter(tokens: int, room: int) -> None:
    found = stretches(tokens, room)
    assert (found[0][0], found[-1][1]) == (0, tokens)
    assert all(end - first == min(room, tokens) for first, end in found)
    for before, after in pairwise(found):
        assert before[1] - after[0] >= room // 4
        assert before[0] < after[0]


def context(window: tuple[int, int], token: int, tokens: int) -> float:
    """Return how far a token is from the nearest end of a window that is not an end of the text."""
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


TEXTS = st.text("ab \n", min_size=1, max_size=200).filter(str.strip)


@given(TEXTS, st.integers(10, 40), st.integers(5, 60))
def test_the_tokens_of_the_windows_are_those_of_the_text(text: str, limit: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlapping, "BLOCK_CHARS", block)
        (windows,) = cut_overlapping([text], Letters(limit))
    whole = letters(text)
    kept = deciding([(places_of(one).first, places_of(one).first + len(places_of(one))) for one in windows])
    ids: list[int] = []
    starts: list[int] = []
    for window, decides in zip(windows, kept, strict=True):
        assert window.encoded is not None
        assert window.encoded.tokens == len(window.encoded.ids) <= max(limit, 0)
        assert (window.encoded.ids[0], window.encoded.ids[-1]) == (FIRST, LAST)
        assert len(window.encoded.feature("token_type_ids")) == window.encoded.tokens
        ids += np.asarray(window.encoded.ids)[1:-1][decides].tolist()
        starts += np.asarray(places_of(window).starts)[decides].tolist()
    assert ids == [*whole.ids][1:-1]
    assert starts == [place for place, letter in enumerate(text) if not letter.isspace()]
    assert [window.part for window in windows] == [len(windows) > 1] * len(windows)


def test_a_text_that_fits_is_one_window_as_the_coder_gives_it() -> None:
    assert cut_overlapping(["ab c", "d"], Letters(10)) == [
        [Window(0, 4, letters("ab c"))],
        [Window(0, 1, letters("d"))],
    ]


def test_a_text_longer_than_a_block_is_tokenised_in_pieces_that_begin_with_white_space(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overlapping, "BLOCK_CHARS", 6)
    seen: list[str] = []

    class Seeing(Letters):
        def encode(self, texts: Sequence[str]) -> list[Encoded]:
            seen.extend(texts)
            return super().encode(texts)

    (windows,) = cut_overlapping(["ab  c defghijklmn"], Seeing(40))
    assert seen == ["ab  c", " defgh", "ijklmn"]
    assert [*places_of(windows[0]).starts] == [0, 1, 4, *range(6, 17)]


def test_without_places_of_tokens_windows_do_not_overlap() -> None:
    class Plain(Letters):
        def encode(self, texts: Sequence[str]) -> list[Encoded]:
            return [Encoded(len(text), text) for text in texts]

    (windows,) = cut_overlapping(["word " * 10], Plain(20))
    assert all(before.end == after.start for before, after in pairwise(windows))
    assert len(windows) > 1
