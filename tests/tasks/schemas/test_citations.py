"""The text in a cited range is the value, under the rule that the module states."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from storage.json_values import Json
from tasks.schemas.citations import Places, citations, normalized

TEXT = "Größe: 1,234.50 EUR.\nThe  Art of\n Computing (3rd ed., −5 °C), cat, a."


@pytest.mark.parametrize(
    ("value", "cited"),
    [
        ("Computing", "Computing"),
        ("the art of computing", "The  Art of\n Computing"),
        ("GRÖSSE", "Größe"),
        ("a", "a"),  # not that of cat
        ("rt", "rt"),  # in a word, since it is no word
        ("(3rd ed.", "(3rd ed."),
        (1234.5, "1,234.50"),
        (3, "3"),
        (5, "5"),
        (-5, "−5"),
        (4, None),  # only within 1,234.50
        (1234, None),
        ("art computing", None),
        ("", None),
        (" \n", None),
    ],
)
def test_a_value_is_cited_where_it_stands(value: str | float, cited: str | None) -> None:
    found = Places(TEXT).of(value)
    assert (None if found is None else TEXT[slice(*found)]) == cited


def test_a_word_counts_before_the_same_letters_in_a_longer_word() -> None:
    assert Places("art, foil, oils, oil").of("oil") == (17, 20)


def test_a_value_is_not_cited_where_it_has_half_of_what_a_character_stands_for() -> None:
    assert Places("Maße").of("MASS") == (0, 3)
    assert Places("Maße").of("MAS") is None


def test_every_string_and_number_has_an_entry_by_its_json_pointer() -> None:
    record: dict[str, Json] = {"a/b": "cat", "tags": ["dog", {"m~n": 5}], "yes": True, "none": None}
    assert citations(record, "A cat of 5.") == {
        "/a~1b": [2, 5],
        "/tags/0": None,
        "/tags/1/m~0n": [9, 10],
    }


alphabet = st.text("aA sS\n\t ßẞİıé𝔸🙂1.,-−0", max_size=30)


def holds(text: str, value: Any, start: int, end: int) -> bool:
    """Return True if the text in a range is the value."""
    assert 0 <= start < end <= len(text)
    cited = text[start:end]
    if isinstance(value, str):
        return cited == value or normalized(cited) == normalized(value)
    return Decimal(cited.replace(",", "").replace("−", "-")) == Decimal(str(value))


@given(alphabet, alphabet | st.integers(-200, 200) | st.floats(-99, 99).map(lambda one: round(one, 1)))
def test_the_text_in_a_range_is_the_value(text: str, value: Any) -> None:
    found = Places(text).of(value)
    if found is not None:
        assert holds(text, value, *found)
    elif isinstance(value, str):
        assert not value.strip() or value not in text


@given(st.text(max_size=30), st.data())
def test_every_stretch_of_a_text_is_found_in_it(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    stretch = text[start : data.draw(st.integers(start, len(text)))]
    assume(stretch.strip())
    found = Places(text).of(stretch)
    assert found is not None
    assert text[slice(*found)] == stretch


@given(st.text("ab \n", min_size=1, max_size=20), st.text("ab \n", max_size=10))
def test_other_white_space_and_case_are_found_too(words: str, around: str) -> None:
    assume(words.strip())
    text = f"{around} {words.strip().upper()} {around}"
    found = Places(text).of(" ".join(words.split()))
    assert found is not None
    assert holds(text, words, *found)


@given(st.integers(-(10**9), 10**9))
def test_numbers_with_commas_between_thousands_are_found(value: int) -> None:
    text = f"It is {value:,}, or so."
    found = Places(text).of(value)
    assert found is not None
    assert holds(text, value, *found)
