"""The records of a text's windows become one, valid by the schema, or the text fails with the reason."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.storage.core.specs import Outcome, Reason, Spec, Status
from docmill.storage.json_values import Json
from docmill.tasks import kinds
from docmill.tasks.kinds.extract import TextIndex, citations, normalized
from docmill.tasks.outputs import Generated, Output
from docmill.tasks.windows.windows import Encoded, Window
from tests.tasks.fakes import join, join_outputs, plan_spec

SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 1},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
    },
    "required": ["title"],
}


def spec_of(**options: Any) -> Spec:
    return plan_spec("extract", **{"json_schema": SCHEMA, **options})


def join_records(*outputs: Output | None, spec: Spec | None = None) -> Outcome:
    """Return the outcome of a text whose windows have these outputs."""
    recipe = kinds.recipe(spec or spec_of(), kinds.Traits())
    return join_outputs(recipe, outputs, tokens_in=7, tokens_out=9)


def test_the_record_of_one_window_is_stored_as_it_is() -> None:
    outcome = join_records(Generated('{"title":"a","tags":["b"]}', 9))
    assert outcome.data == {"data": {"title": "a", "tags": ["b"]}}
    assert (outcome.status, outcome.flags, outcome.tokens_in, outcome.tokens_out) == (Status.DONE, (), 7, 9)


def test_the_records_of_windows_are_merged_and_flagged() -> None:
    first, second = Generated('{"title":"a","tags":["b","c"]}', 9), Generated('{"title":"d","tags":["c","e","f"]}', 9)
    outcome = join_records(first, None, second)  # a window of white space has no output
    assert outcome.data == {"data": {"title": "a", "tags": ["b", "c", "e"]}}
    assert outcome.flags == ("windowed",)


def test_repetitions_are_dropped_only_from_a_record_that_breaks_the_schema() -> None:
    unique = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    numbers = {"type": "array", "items": {"type": "integer"}}
    spec = spec_of(json_schema={"type": "object", "properties": {"a": {"anyOf": [unique, numbers]}}})
    assert join_records(Generated('{"a":[1,1]}', 9), spec=spec).data == {"data": {"a": [1, 1]}}
    assert join_records(Generated('{"a":["x","x"]}', 9), spec=spec).data == {"data": {"a": ["x"]}}


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (Generated('{"title":""}', 9), r"The output is not valid by the schema: #/title breaks .*/title/minLength\."),
        (
            Generated('{"title":"a', 1200, truncated=True),
            "The output reached 1,200 tokens before the JSON ended: raise",
        ),
    ],
)
def test_a_text_without_a_valid_record_fails_with_the_reason(output: Output, reason: str) -> None:
    outcome = join_records(output)
    assert (outcome.status, outcome.data, outcome.reason_class) == (Status.FAILED, None, Reason.MODEL)
    assert re.match(reason, str(outcome.reason))


def test_cited_values_have_their_places_in_the_whole_text() -> None:
    spec = spec_of(cite=True)
    text = "Of dogs. Of cats."
    windows = [Window(0, 9, Encoded(3, "x"), part=True), Window(9, 17, Encoded(3, "x"), part=True)]
    outputs = [Generated('{"title":"of Dogs","tags":["x"]}', 9), Generated('{"title":"Cats","tags":["cats"]}', 9)]
    outcome = join(kinds.recipe(spec, kinds.Traits()), text, windows, outputs)
    assert outcome.data == {
        "data": {"title": "of Dogs", "tags": ["x", "cats"]},
        "citations": {"/title": [0, 7], "/tags/0": None, "/tags/1": [12, 16]},
    }
    assert spec_of(cite=False) == spec_of() != spec


def test_the_schema_and_not_its_layout_makes_the_spec() -> None:
    texts = [json.dumps(SCHEMA), json.dumps(SCHEMA, indent=4), json.dumps({**SCHEMA, "description": "other"})]
    ids = [spec_of(json_schema=text).sha256 for text in texts]
    assert ids[0] == ids[1] != ids[2]
    assert Spec.from_json(spec_of().to_json()) == spec_of()
    assert spec_of().params["grammar"] == 1


TEXT = "Größe: 1,234.50 EUR.\nThe  Art of\n Computing (3rd ed., −5 °C), cat, a."


@pytest.mark.parametrize(
    ("value", "cited"),
    [
        ("Computing", "Computing"),
        ("the art of computing", "The  Art of\n Computing"),
        ("GRÖSSE", "Größe"),
        ("a", "a"),  # not that of cat
        ("(3rd ed.", "(3rd ed."),
        (1234.5, "1,234.50"),
        (3, "3"),
        (5, "5"),
        (-5, "−5"),
        (1234, None),
        ("art computing", None),
        ("", None),
    ],
)
def test_a_value_is_cited_where_it_stands(value: str | float, cited: str | None) -> None:
    place = TextIndex(TEXT).of(value)
    assert (None if place is None else TEXT[slice(*place)]) == cited


def test_a_value_is_not_cited_where_it_ends_inside_a_folded_character() -> None:
    assert TextIndex("Maße").of("MASS") == (0, 3)
    assert TextIndex("Maße").of("MAS") is None


def test_every_string_and_number_has_an_entry_by_its_json_pointer() -> None:
    record: dict[str, Json] = {"a/b": "cat", "tags": ["dog", {"m~n": 5}], "yes": True, "none": None}
    assert citations(record, "A cat of 3,1235 or 5.") == {"/a~1b": [2, 5], "/tags/0": None, "/tags/1/m~0n": [19, 20]}


alphabet = st.text("aA sS\n\t ßẞİıé𝔸🙂1.,-−0", max_size=30)


def is_value(text: str, value: Any, start: int, end: int) -> bool:
    """Return True if the text in a range is the value."""
    assert 0 <= start < end <= len(text)
    cited = text[start:end]
    if isinstance(value, str):
        return cited == value or normalized(cited) == normalized(value)
    return Decimal(cited.replace(",", "").replace("−", "-")) == Decimal(str(value))


@given(alphabet, alphabet | st.integers(-200, 200) | st.floats(-99, 99).map(lambda number: round(number, 1)))
def test_the_text_in_a_range_is_the_value(text: str, value: Any) -> None:
    place = TextIndex(text).of(value)
    if place is not None:
        assert is_value(text, value, *place)
    elif isinstance(value, str):
        assert not value.strip() or value not in text
