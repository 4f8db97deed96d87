"""The records of a document's windows are one record, and a record that breaks its schema is told by place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.json_values import Json
from tasks.schemas.records import RecordChecks, distinct, merged, parsed

SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": ["string", "null"]},
        "price": {"type": "number", "multipleOf": 0.01},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        "maker": {"type": "object", "properties": {"name": {"type": ["string", "null"]}, "town": {"type": "string"}}},
    },
}


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([{"title": "a"}], {"title": "a"}),
        ([{"title": None}, {"title": "b"}, {"title": "c"}], {"title": "b"}),
        ([{"title": ""}, {"title": "b"}], {"title": "b"}),
        ([{"price": 0}, {"price": 2.5}], {"price": 0}),
        ([{}, {"price": 2.5}], {"price": 2.5}),
        ([{"tags": ["a", "b"]}, {"tags": ["b", "c", "c"]}], {"tags": ["a", "b", "c"]}),
        ([{"tags": ["a", "b"]}, {"tags": ["c", "d"]}], {"tags": ["a", "b", "c"]}),
        (
            [{"maker": {"name": None}}, {"maker": {"name": "x", "town": "y"}}],
            {"maker": {"name": "x", "town": "y"}},
        ),
    ],
)
def test_the_records_of_windows_are_merged_by_property(records: list[Any], expected: Any) -> None:
    assert merged(records, SCHEMA) == expected


leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
values = st.recursive(leaves, lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=2), one))


@pytest.mark.slow
@given(st.lists(st.dictionaries(st.text(max_size=2), values), min_size=1, max_size=4))
def test_merging_loses_no_property_and_invents_none(records: list[dict[str, Any]]) -> None:
    assert {*merged(records, {})} == {name for record in records for name in record}


@given(st.lists(st.lists(st.integers(0, 5), unique=True), min_size=1, max_size=4))
def test_merged_lists_have_every_item_once_in_the_order_of_the_windows(lists: list[list[int]]) -> None:
    found = merged([{"a": items} for items in lists], {})["a"]
    assert found == [*dict.fromkeys(item for items in lists for item in items)]


@pytest.mark.parametrize("value", [[1, 2, 1.0, True, 2], [1, 2, True]])
def test_lists_of_unique_items_lose_their_repetitions(value: list[Json]) -> None:
    unique = {"type": "array", "items": {"type": ["number", "boolean"]}, "uniqueItems": True}
    free = {"type": "array", "items": unique}
    schema = {
        "type": "object",
        "properties": {"a": unique, "b": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/x"}]}, "c": free},
        "additionalProperties": unique,
        "$defs": {"x": {"type": "object", "properties": {"d": unique}}},
    }
    record: dict[str, Json] = {"a": value, "b": {"d": value}, "c": [value, value], "e": value}
    once = [1, 2, True]
    assert distinct(record, schema, schema) == {"a": once, "b": {"d": once}, "c": [once, once], "e": once}
    assert RecordChecks(schema).problem(distinct(record, schema, schema)) is None
    assert (RecordChecks(schema).problem(record) is None) == (value == once)


@given(values)
def test_merging_a_record_with_itself_changes_nothing(value: Any) -> None:
    assert merged([{"a": value}, {"a": value}], {}) == {"a": value}


def test_a_broken_record_is_told_by_place_and_keyword_without_its_text() -> None:
    checks = RecordChecks(SCHEMA)
    assert checks.problem({"price": 19.99, "tags": ["a"]}) is None  # as floats, 19.99 is no multiple of 0.01
    assert checks.problem({"tags": ["secret", 7]}) == "#/tags/1 breaks #/properties/tags/items/type"
    assert checks.problem([]) == "# breaks #/type"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ("NaN", "NaN is no JSON number"),
        ('{"a": Infinity}', "Infinity is no JSON number"),
        ('{"a": 1} x', "Extra data"),
    ],
)
def test_text_that_is_no_json_is_an_error(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parsed(text)
