"""A schema has one form in a spec. A schema that no model can follow is refused, with the place of the problem."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from docmill.storage.json_values import Json
from docmill.tasks.errors import BadSchema
from docmill.tasks.schema_checks import read, record_check, shortest
from docmill.tasks.schemas import describe, drop_repetitions, merge_records

TEXT = {"type": "string"}


def of(**properties: Any) -> dict[str, Any]:
    """Return the schema of an object with these properties, all required."""
    return {"type": "object", "properties": properties, "required": [*properties]}


def test_the_form_keeps_the_order_of_properties_and_of_nothing_else() -> None:
    schema = {"type": "object", "properties": {"b": {"type": "string", "maxLength": 3}, "a": TEXT}, "required": ["a"]}
    text = ' {"required": ["a"],\n"properties": {"b": {"maxLength": 3, "type": "string"}, "a": {"type":"string"}}, '
    assert read(schema) == read(text + '"type": "object"}')
    reordered = {**schema, "properties": dict(reversed(schema["properties"].items()))}  # type: ignore[attr-defined]
    assert read(schema) != read(reordered)
    assert read(read(schema)) == read(schema)
    assert " " not in read(schema)


@pytest.mark.parametrize(
    "schema",
    [
        of(a={"type": ["string", "null"], "description": "é", "title": "A", "default": None, "examples": ["x"]}),
        of(a={"anyOf": [TEXT, {"type": "null"}]}),
        of(a={"enum": ["x", 1, None]}, b={"const": "y"}, c={"type": "boolean"}),
        of(a={"type": "string", "format": "date"}, b={"type": "string", "pattern": "^[A-Z]{2}$"}),
        of(a={"type": "string", "minLength": 600}, b={"type": "number", "exclusiveMinimum": 1e12}),
        of(a={"type": "array", "items": TEXT, "uniqueItems": True, "minItems": 1}),
        of(a={"type": "number", "minimum": 1e18}, b={"type": "integer", "maximum": -(10**18)}),
        of(a={"type": "object", "additionalProperties": TEXT}),
        of(a={"allOf": [of(b=TEXT), of(c=TEXT)]}),
        {**of(a={"$ref": "#/$defs/x"}), "$defs": {"x": of(b=TEXT)}},
        {"$schema": "http://json-schema.org/draft-07/schema#", **of(a={"$ref": "#/definitions/x"})}
        | {"definitions": {"x": TEXT}},
        {**of(name=TEXT), "properties": {"name": TEXT, "parts": {"type": "array", "items": {"$ref": "#"}}}},
        of(**{'a "quoted" name': TEXT, "naïve name": TEXT}),
    ],
)
def test_the_shortest_record_of_a_schema_is_valid(schema: dict[str, Any]) -> None:
    record = shortest(json.loads(read(schema)))
    assert record is not None
    assert [*Draft202012Validator(schema).iter_errors(json.loads(record))] == []


@pytest.mark.parametrize(
    "schema",
    [
        of(a={"type": "array", "items": TEXT, "uniqueItems": True, "minItems": 3}),
        {"$schema": "http://json-schema.org/draft-04/schema#", "id": "http://example.org/x", **of(a=TEXT)},
        of(a={**TEXT, "id": "a", "note": "n", "comment": "c", "titles": {}, "enumDescriptions": [], "tsType": "x"}),
        of(a={**TEXT, "pattern": r"^(?P<year>[0-9]{4})-\d\d$"}),
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "object",
            "properties": {"می\u200cشود": {**TEXT, "deprecated": "x"}},
        },
    ],
)
def test_a_schema_that_a_model_can_follow_is_kept_as_it_is(schema: dict[str, Any]) -> None:
    assert json.loads(read(schema)) == schema


@pytest.mark.parametrize("pattern", [r"\p{Letter}", "(?<y>a)", r"a\z", "[[:alpha:]]", "a{99999999999}", "("])
def test_a_pattern_that_python_cannot_read_is_refused_with_its_place(pattern: str) -> None:
    schema = {**of(a={**TEXT, "pattern": pattern}, b=TEXT), "required": ["b"]}
    with pytest.raises(BadSchema, match="cannot be kept at #/properties/a/pattern: Python cannot read the"):
        read(schema)
    named = of(a={"type": "object", "patternProperties": {pattern: TEXT}})
    with pytest.raises(BadSchema, match=r"at #/properties/a/patternProperties/.*: Python cannot read the"):
        read(named)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("{", "is not JSON: "),
        ('{"type": "object", "properties": {"a": {"const": NaN}}}', "is not JSON: NaN is no JSON number"),
        ({"title": "", "price": 0}, "must be a JSON Schema, not an example of a record; write it as "),
        (of(a={"type": "strin"}), "is no JSON Schema at #/properties/a/type: there is no type 'strin'; there are "),
        (of(a={**TEXT, "maxlength": 3}), "cannot be kept at #/properties/a/maxlength: .* did you mean maxLength"),
        (
            {"$schema": "http://json-schema.org/draft-07/schema#", **of(a=TEXT), "$defs": []},
            r"no JSON Schema at #/\$defs",
        ),
        (
            {"$schema": "http://json-schema.org/draft-04/schema#", **of(a={"$ref": 5})},
            r"Schema at #/properties/a/\$ref",
        ),
        (of(a={"anyOf": [TEXT, True]}), "at #/properties/a/anyOf/1: true allows any value; give a type"),
        (of(a={"type": "object", "patternProperties": {"x": True}}), "at #/properties/a/patternProperties/x: true"),
        (of(a={"not": TEXT}), "cannot be kept at #/properties/a/not: a model cannot be held to not; say what"),
        (of(a=of(b={})), "cannot be kept at #/properties/a/properties/b: it allows any value; give a type"),
        (of(a={"$ref": "https://example.org/x"}), "at #/properties/a/\\$ref: https://example.org/x is not in the"),
        (of(a={**TEXT, "format": "isbn"}), "at #/properties/a: docmill knows no such format: isbn; use pattern"),
        (of(b=of(a={**TEXT, "pattern": "(?=x)"})), "at #/properties/b/properties/a: regex .*; use a simpler pattern"),
        (of(a={"oneOf": [TEXT, {**TEXT, "maxLength": 3}]}), "at #/properties/a: its alternatives overlap; use anyOf"),
        (
            of(a={"type": "number", "minimum": 1e30}),
            "at #/properties/a/minimum: no model .* beyond 4.6e.18; leave it",
        ),
        ({**of(a={"$ref": "#/$defs/x"}), "$defs": {"x": of(x={"$ref": "#/$defs/x"})}}, "allows no record that ends"),
        (of(**{"a\n": TEXT}), r"cannot be kept at #/properties: .* cannot be printed: 'a\\n'"),
        (of(**{"é" * 21: TEXT}), "at #/properties/é{21}: the name is too long for a column: it may have 40 bytes"),
        (of(a={**TEXT, "description": "\0"}), "has a NUL or half a character"),
        (of(a={**TEXT, "description": "x" * 100_000}), "has 100,0.. characters, and may have 100,000"),
        ("[" * 100_000, "is nested too deep"),
    ],
)
def test_a_schema_that_no_model_can_follow_is_refused_with_its_place(schema: Any, message: str) -> None:
    with pytest.raises(BadSchema, match=message):
        read(schema)


def test_each_property_is_a_line_with_its_type_and_its_description() -> None:
    schema = {
        "type": "object",
        "properties": {
            "title": {"type": "string", "description": "the title,\n as it stands"},
            "kind": {"enum": ["book", "film"]},
            "year": {"anyOf": [{"type": "integer"}, {"type": "null"}], "title": "Year"},
            "day": {"type": "string", "format": "date"},
            "makers": {"type": "array", "items": {"$ref": "#/$defs/maker"}, "description": "all makers"},
        },
        "$defs": {
            "maker": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "friends": {"type": "array", "items": {"$ref": "#/$defs/maker"}},
                },
            }
        },
    }
    assert describe(schema) == (
        "- title (string): the title, as it stands\n"
        '- kind ("book" or "film")\n'
        "- year (integer or null): Year\n"
        "- day (string, date)\n"
        "- makers (list of object): all makers\n"
        "  - name (string)\n"
        "  - friends (list of object)"
    )


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
        ([{"tags": ["a"]}, {"tags": ["a", "b", "b", "c"]}], {"tags": ["a", "b", "c"]}),
        ([{"tags": ["a", "b"]}, {"tags": ["c", "d"]}], {"tags": ["a", "b", "c"]}),
        ([{"maker": {"name": None}}, {"maker": {"name": "x", "town": "y"}}], {"maker": {"name": "x", "town": "y"}}),
    ],
)
def test_the_records_of_windows_are_merged_by_property(records: list[Any], expected: Any) -> None:
    assert merge_records(records, SCHEMA) == expected


PAIR = {"type": "array", "maxItems": 2}


@pytest.mark.parametrize(
    ("a", "values", "expected"),
    [
        ({"additionalProperties": PAIR}, [{"x": [1, 2]}, {"x": [3]}], {"x": [1, 2]}),
        ({"patternProperties": {"^x": PAIR}}, [{"x": [1, 2]}, {"x": [3]}], {"x": [1, 2]}),
        (
            {"maxProperties": 2, "additionalProperties": TEXT},
            [{"x": "a"}, {"y": "b", "z": "c"}],
            {"x": "a", "y": "b"},
        ),
        (
            {"anyOf": [{"type": "object", "properties": {"y": {}}}, of(x=PAIR)]},
            [{"x": [1, 2]}, {"x": [3]}],
            {"x": [1, 2]},
        ),
        (
            {"properties": {"x": {"type": "array"}}, "allOf": [{"properties": {"x": {"maxItems": 2}}}]},
            [{"x": [1, 2]}, {"x": [3]}],
            {"x": [1, 2]},
        ),
        ({"enum": [["a"], ["b"]]}, [["a"], ["b"]], ["a"]),
        ({"anyOf": [{"const": {"x": 1}}, {"const": {"y": 1}}]}, [{"x": 1}, {"y": 1}], {"x": 1}),
        ({"anyOf": [{"const": "none"}, {"type": "array"}]}, [["a"], ["b"]], ["a", "b"]),
        ({"anyOf": [PAIR, {"type": "null"}]}, [["a", "b"], ["c"]], ["a", "b"]),
        ({"anyOf": [{"type": "array", "maxItems": 1}, {"type": "array"}]}, [["a", "b"], ["c"]], ["a", "b", "c"]),
        ({"$ref": "#/$defs/towns"}, [{"towns": ["x"]}, {"towns": ["y", "z"]}], {"towns": ["x", "y"]}),
        ({"$ref": "#/$defs/nested"}, [["x"], ["y"]], ["x", "y"]),
    ],
)
def test_merged_values_stay_within_what_the_schema_allows(a: Any, values: list[Json], expected: Json) -> None:
    schema = {**of(a=a), "$defs": {"towns": of(towns=PAIR), "nested": {"anyOf": [PAIR, {"$ref": "#/$defs/nested"}]}}}
    assert merge_records([{"a": value} for value in values], schema) == {"a": expected}


@pytest.mark.parametrize("value", [[1, 2, 1.0, True, 2], [1, 2, True]])
def test_lists_of_unique_items_lose_their_repetitions(value: list[Json]) -> None:
    unique = {"type": "array", "items": {"type": ["number", "boolean"]}, "uniqueItems": True}
    free = {"type": "array", "items": unique}
    schema = {
        "type": "object",
        "properties": {"a": unique, "b": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/x"}]}, "c": free},
        "patternProperties": {"^f": {"anyOf": [unique, {"$ref": "#/$defs/nested"}]}},
        "additionalProperties": unique,
        "$defs": {
            "x": {"type": "object", "properties": {"d": unique}},
            "nested": {"anyOf": [TEXT, {"$ref": "#/$defs/nested"}]},
        },
    }
    record: dict[str, Json] = {"a": value, "b": {"d": value}, "c": [value, value], "e": value, "f": value}
    once = [1, 2, True]
    expected = {"a": once, "b": {"d": once}, "c": [once, once], "e": once, "f": once}
    assert drop_repetitions(record, schema, schema) == expected
    assert record_check(schema)(drop_repetitions(record, schema, schema)) is None
    assert (record_check(schema)(record) is None) == (value == once)


def test_an_invalid_record_is_reported_by_place_and_keyword_without_its_text() -> None:
    check = record_check(SCHEMA)
    assert check({"price": 19.99, "tags": ["a"]}) is None  # as floats, 19.99 is no multiple of 0.01
    assert check({"tags": ["secret", 7]}) == "#/tags/1 breaks #/properties/tags/items/type"
    assert check([]) == "# breaks #/type"
