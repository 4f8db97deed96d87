"""A user's JSON Schema: read, checked, and brought into the form that a spec keeps."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from storage.core.normalize import normalize_json
from tasks.errors import nearly
from tasks.schemas import grammar
from tasks.schemas.bounds import BOUNDS
from tasks.schemas.records import RecordChecks, draft, parsed
from tasks.schemas.walk import NAMED, ONE, SEVERAL, Place, Schema, at, mapped, pointer, types, walk

MOST_CHARS = 100_000
_LARGEST_BOUND = 2**62  # llguidance counts in 64 bits, and a bound of ours may be twice the schema's
MOST_NAME_BYTES = 40  # of a property of the top level: PostgreSQL's 63, with a step's name in front
_EXAMPLE = '{"type": "object", "properties": {"title": {"type": "string"}}}'
# Keywords that a grammar cannot keep, each with advice.
_REFUSED: Mapping[str, str] = {
    "not": "say what is allowed, with enum or anyOf",
    "if": "use anyOf, with a schema for each case",
    "then": "use anyOf, with a schema for each case",
    "else": "use anyOf, with a schema for each case",
    "contains": "leave it out, or say with items what every item is",
    "minContains": "leave it out",
    "maxContains": "leave it out",
    "propertyNames": "use patternProperties",
    "dependentRequired": "use anyOf, with a schema for each case",
    "dependentSchemas": "use anyOf, with a schema for each case",
    "dependencies": "use anyOf, with a schema for each case",
    "unevaluatedProperties": "use additionalProperties",
    "unevaluatedItems": "use items",
    "additionalItems": "use prefixItems and items of draft 2020-12",
    "$dynamicRef": "use $ref",
    "$recursiveRef": "use $ref",
    "x-guidance": "leave it out",
    "nullable": 'write "type": ["string", "null"]',
}
# Keywords that say something of a record, so that a slip in their name would lose what they say.
_BINDING = frozenset(
    {
        *ONE, *SEVERAL, *NAMED, *_REFUSED, "$ref", "type", "enum", "const", "format", "pattern", "minLength",
        "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems",
        "maxItems", "uniqueItems", "required", "minProperties", "maxProperties",
    }
)  # fmt: skip
_TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
_LONGEST = 200  # of a message that is shown
# A schema with any of these says what its values are.
_TELLING = ("type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf")


class BadSchema(ValueError):
    """A schema that is none, or that no model can be held to; the message ends a sentence about the schema."""


def read(given: object) -> str:
    """Return a schema, given as an object or as JSON text, in the form of a spec. Raises BadSchema.

    The form is JSON without white space. Keywords are sorted; properties stand in the order in which they were
    given, which is the order in which a model writes them.
    """
    try:
        value = parsed(given) if isinstance(given, str) else given
        if not isinstance(value, Mapping):
            raise BadSchema(f"must be a JSON Schema such as {_EXAMPLE}")
        _require_json(value)
        _check(value)
        return json.dumps(_ordered(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except RecursionError as error:
        raise BadSchema("is nested too deep") from error
    except BadSchema:
        raise
    except (ValueError, TypeError) as error:
        raise BadSchema(f"is not JSON: {error}") from error


def _require_json(value: Mapping[str, Any]) -> None:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if len(text) > MOST_CHARS:
        raise BadSchema(f"has {len(text):,} characters, and may have {MOST_CHARS:,}: describe less at once")
    if normalize_json(value)[1]:
        raise BadSchema("has a NUL or half a character, which no database stores")


def _ordered(schema: Schema) -> dict[str, Any]:
    """Return the schema with its keywords sorted, and its properties as they stand."""

    def inside(one: Any) -> Any:
        return _ordered(one) if isinstance(one, Mapping) else one

    def value(key: str) -> Any:
        if key in NAMED:
            names = schema[key] if key == "properties" else sorted(schema[key])
            return {name: inside(schema[key][name]) for name in names}
        if key in SEVERAL:
            return [inside(one) for one in schema[key]]
        return inside(schema[key]) if key in ONE else schema[key]

    return {key: value(key) for key in sorted(schema)}


def _check(schema: Schema) -> None:
    """Raise BadSchema for a schema that is none, or that a grammar cannot keep."""
    if not isinstance(schema.get("type"), str | list) and "properties" not in schema:
        raise BadSchema(f"must be a JSON Schema, not an example of a record; write it as {_EXAMPLE}")
    _check_form(schema)
    if schema.get("type") != "object" or not schema.get("properties"):
        raise BadSchema(f"must describe an object with properties, such as {_EXAMPLE}")
    for place, inner in walk(schema):
        problems = chain(
            _problems_of_keywords(inner, place),
            _problems_of_patterns(inner, place),
            _problems_of_values(inner, place, schema),
        )
        for keys, words in problems:
            raise BadSchema(f"cannot be kept at {pointer(keys)}: {words}")
    _check_grammar(schema)


def _check_form(schema: Schema) -> None:
    """Raise BadSchema if the schema breaks the rules of its draft."""
    from jsonschema import exceptions

    validator = draft(schema)
    error = exceptions.best_match(validator(validator.META_SCHEMA).iter_errors(schema))
    if error is not None:
        said = error.message if len(error.message) < _LONGEST else f"it breaks {error.validator}"
        if error.absolute_path and error.absolute_path[-1] == "type":
            said = f"there is no type {str(error.instance)[:40]!r}; there are {', '.join(_TYPES)}"
        raise BadSchema(f"is no JSON Schema at {pointer(tuple(error.absolute_path))}: {said}")


def _problems_of_keywords(schema: Schema, place: Place) -> Iterator[tuple[Place, str]]:
    """Yield the keywords that a grammar cannot keep in a schema, without the schemas inside it, with their places."""
    for key in schema:
        if key in _REFUSED:
            yield (*place, key), f"a model cannot be held to {key}; {_REFUSED[key]}"
        elif key not in _BINDING and (near := _slip_of(key)):
            yield (*place, key), f"there is no keyword {key}; did you mean {near}?"
    for key in ("exclusiveMinimum", "exclusiveMaximum"):
        if isinstance(schema.get(key), bool):
            yield (*place, key), "it is true or false, as in draft 4; write the bound itself"
    for key in BOUNDS:
        if abs(schema.get(key, 0)) > _LARGEST_BOUND:
            yield (*place, key), f"no model can be held to a bound beyond {_LARGEST_BOUND:.1e}; leave it out"
    if isinstance(items := schema.get("items"), list):
        yield (*place, "items"), f"it has {len(items)} schemas; use prefixItems of draft 2020-12"


def _slip_of(key: str) -> str | None:
    """Return the binding keyword that an unknown one is a slip of; other unknown keywords are annotations."""
    near = (name for name in nearly(key, _BINDING - {"not"}) if abs(len(name) - len(key)) <= 1)
    return next(near, None)


def _problems_of_patterns(schema: Schema, place: Place) -> Iterator[tuple[Place, str]]:
    """Yield patterns that records cannot be held against: Python's `re` does that, and llguidance reads them, too."""
    named = {(*place, "patternProperties", name): name for name in schema.get("patternProperties", ())}
    if "pattern" in schema:
        named[*place, "pattern"] = schema["pattern"]
    for keys, pattern in named.items():
        try:
            with warnings.catch_warnings():
                # A class inside a class, as in [[:alpha:]], is one for llguidance, and characters for Python.
                warnings.simplefilter("error", FutureWarning)
                re.compile(pattern)
        except (re.error, OverflowError, FutureWarning) as error:
            advice = "write it as Python's re and Rust's regex both read it, such as [A-Z], (?P<name>…) or $"
            yield keys, f"Python cannot read the pattern: {error}; {advice}"


def _problems_of_values(schema: Schema, place: Place, root: Schema) -> Iterator[tuple[Place, str]]:
    """Yield references to nothing, and values of any kind, with their places."""
    reference = schema.get("$ref")
    if reference is not None and not (reference.startswith("#") and isinstance(at(root, reference), Mapping)):
        yield (*place, "$ref"), f"{reference} is not in the schema; put it under $defs, and write #/$defs/NAME"
    if not any(key in schema for key in _TELLING) and not _is_told(place, root):
        yield place, 'it allows any value; give a type, such as "type": "string"'
    if schema.get("additionalProperties") is True:
        yield (*place, "additionalProperties"), "true allows any value; leave it out, or give a schema"
    if "object" in types(schema) and not _has_properties(schema):
        yield place, 'it allows any object; give properties, or "additionalProperties": {"type": "string"}'
    if "array" in types(schema) and not isinstance(schema.get("items", schema.get("prefixItems")), Mapping | list):
        yield place, 'it allows any list; give items, such as "items": {"type": "string"}'
    for name, inner in schema.get("properties", {}).items():
        if inner is True:
            yield (*place, "properties", name), 'true allows any value; give a type, such as {"type": "string"}'
        if not name.isprintable():
            yield (*place, "properties"), f"a name has a character that cannot be printed: {name!a}"
        if not place and len(name.encode()) > MOST_NAME_BYTES:
            yield ("properties", name), f"the name is too long for a column: it may have {MOST_NAME_BYTES} bytes"


def _is_told(place: Place, root: Schema) -> bool:
    """Return True for one of several alternatives or conditions beside which the type stands."""
    if len(place) < 2 or place[-2] not in SEVERAL:
        return False
    around = at(root, pointer(place[:-2]))
    return place[-2] == "allOf" or any(key in around for key in ("type", "$ref", "allOf"))


def _has_properties(schema: Schema) -> bool:
    telling = {*_TELLING, "properties", "patternProperties"} - {"type"}
    return not telling.isdisjoint(schema) or isinstance(schema.get("additionalProperties"), Mapping)


def _check_grammar(schema: Schema) -> None:
    """Raise BadSchema for a schema that llguidance takes no grammar of, or that no record keeps."""
    said = grammar.problem(schema)
    if said is not None:
        place, inner_said = _where(schema) or ((), said)
        raise BadSchema(f"cannot be kept at {pointer(place)}: {_in_our_words(inner_said)}")
    text = grammar.shortest(schema)
    if text is None:
        raise BadSchema("allows no record that ends: does a required property contain itself?")
    # Repetitions are removed when a model has written a record, and its minItems count then.
    repeating = mapped(schema, lambda inner, _: {key: inner[key] for key in inner if key != "uniqueItems"})
    if (broken := RecordChecks(repeating).problem(parsed(text))) is not None:
        raise BadSchema(f"cannot be kept: a record that the grammar allows is not valid; {broken}")


def _in_our_words(said: str) -> str:
    """Return llguidance's reason, with advice."""
    if said.startswith("oneOf"):
        return "its alternatives overlap; use anyOf in place of oneOf"
    if said.startswith("Unknown format"):
        return f"docmill knows no such format{said.removeprefix('Unknown format')}; use pattern, or leave it out"
    if " range" in said or "multipleOf" in said:
        return f"{said}; use bounds nearer to 0, or with fewer digits"
    if "regex" in said:
        return f"{said}; use a simpler pattern"
    return said


def _where(root: Schema) -> tuple[Place, str] | None:
    """Return the innermost schema of which no grammar can be made by itself, and the reason."""
    shared = {key: root[key] for key in ("$defs", "definitions", "$schema") if key in root}
    found = None
    for place, inner in walk(root):
        if place[:1] in {("$defs",), ("definitions",)} and len(place) < 2:
            continue
        if (found is None or len(place) > len(found[0])) and (said := grammar.problem({**shared, **inner})):
            found = place, said
    return found
