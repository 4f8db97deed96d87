"""Laws of windows: joined again they are the text."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from semantic_text_splitter import TextSplitter

from docmill.tasks.windows.markdown import has_signs
from docmill.tasks.windows.paragraphs import paragraphs, unwrapped
from docmill.tasks.windows.windows import LONG_CHARS_PER_TOKEN, Encoded, Window, cut, split

UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
WORDS = ["word", "a", "naïve", "東京は", "e\u0301", "👩\u200d👩\u200d👧", "x" * 90]
BETWEEN = [". ", "! ", " ", "\t", "\n", "\r\n", "\n\n", "- ", "…"]
PROSE = st.lists(st.sampled_from([*WORDS, *BETWEEN]), max_size=120).map("".join)
TEXTS = st.one_of(UNICODE, PROSE)


class Characters:
    """A coder that counts characters, and two special tokens."""

    def __init__(self, limit_tokens: int) -> None:
        self.limit_tokens = limit_tokens
        self.seen = 0
        self.seen_chars = 0

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        self.seen += len(texts)
        self.seen_chars += sum(map(len, texts))
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
    """Between paragraphs there may be an item's number or letter, and nothing else with a meaning."""
    return len("".join(character for character in between if character.isalnum())) <= 3


def test_a_text_that_fits_is_one_window_and_is_encoded_once() -> None:
    coder = Characters(50)
    (windows,) = cut(["A sentence. And another.\n\nA paragraph."], coder)
    assert len(windows) == 1
    assert coder.seen == 1


def test_long_texts_are_cut_at_paragraphs_then_sentences_then_words() -> None:
    assert split_texts("One two.\n\nThree four.\n\n", 14) == ["One two.\n\n", "Three four.\n\n"]
    assert split_texts("One two. Three four.", 12) == ["One two. ", "Three four."]
    assert split_texts("abcdef ghijkl", 8) == ["abcdef ", "ghijkl"]
    assert split_texts("abcdefgh", 4) == ["abcd", "efgh"]


def whole_split(text: str, limit: int) -> list[tuple[int, int]]:
    """The splitter's cuts of a text that it is given whole."""
    spans, start = [], 0
    for piece in TextSplitter.from_callback(len, limit, trim=False).chunks(text):
        spans.append((start, start + len(piece)))
        start += len(piece)
    return spans


@pytest.mark.parametrize("limit", [16, 33, 64])
@pytest.mark.parametrize("seed", range(4))
def test_blocks_of_a_long_text_are_cut_as_the_whole_would_be(limit: int, seed: int) -> None:
    words = Random(seed).choices(["word", "a", "naïve", "one.", "Two!", "more\n", "end.\n\n"], k=1500)
    text = " ".join(words)
    assert split(text, len, limit) == whole_split(text, limit)


@pytest.mark.parametrize("text", ["x" * 100_000, "0.25,1.5," * 10_000, "word " * 20_000], ids=["x", "csv", "words"])
def test_cutting_takes_time_in_proportion_to_the_text(text: str) -> None:
    seen = []
    for part in (text[: len(text) // 4], text):
        coder = Characters(50)
        cut([part], coder)
        seen.append(coder.seen_chars)
    assert seen[1] < 5 * seen[0]


def test_a_window_of_few_tokens_is_not_without_end() -> None:
    spans = split("x" * 100_000, lambda piece: 1, 50)
    assert max(end - start for start, end in spans) == 50 * LONG_CHARS_PER_TOKEN
    assert spans[-1][1] == 100_000


def split_texts(text: str, limit: int) -> list[str]:
    return [text[start:end] for start, end in split(text, len, limit)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One\ntwo.\n\nThree.", ["One\ntwo.", "Three."]),
        (
            "Fonctions sont :\n- la réplication de\n  données ;\n- une grande vitesse.",
            ["Fonctions sont :", "la réplication de\n  données ;", "une grande vitesse."],
        ),
        (
            "Fournit :\n–\u00a0un premier\nélément ;\n–\u00a0un autre.\nPour finir, rien.",
            ["Fournit :", "un premier\nélément ;", "un autre.", "Pour finir, rien."],
        ),
        ("1. One\n2) Two\n(3) Three", ["One", "Two", "Three"]),
        ("  Indented.\n  Again.\n", ["Indented.", "Again."]),
        ("Text\r\nwrapped.\r\n\r\n* Item\r\n", ["Text\r\nwrapped.", "Item"]),
        ("3.5 metres is not an item\n- nor-\nmal", ["3.5 metres is not an item", "nor-\nmal"]),
    ],
)
def test_paragraphs_and_items_are_found(text: str, expected: list[str]) -> None:
    assert [text[section.start : section.end] for section in paragraphs(text)] == expected


def test_a_stretch_without_words_is_copied() -> None:
    text = "Before\n\n.....\n\nAfter"
    assert [section.verbatim for section in paragraphs(text)] == [False, True, False]


def test_a_wrapped_line_reaches_the_model_as_one_line() -> None:
    assert unwrapped("one\n  two\r\nthree \t\n four") == "one two three four"


def test_many_spaces_take_no_time() -> None:
    text = f"a{' ' * 1_000_000}b"
    assert unwrapped(text) == text
