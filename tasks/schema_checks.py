"""The JSON Schemas that can constrain a model: their checks, their bounds, their grammars, and valid records."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from itertools import chain
from typing import TYPE_CHECKING, Any

from jsonschema import exceptions, validators
from jsonschema.protocols import Validator
from referencing import Registry

from docmill.storage.core.normalize import is_printable, normalize_json
from docmill.storage.extras import LOCAL
from docmill.storage.json_values import Json
from docmill.tasks.errors import BadSchema, find_similar
from docmill.tasks.schemas import (
    NAMED,
    SEVERAL,
    Schema,
    SchemaPath,
    at,
    map_schemas,
    parse_json,
    pointer,
    types,
    walk,
)

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions


STRING_CHARS = 400
ITEMS = 32  # of a list, and properties of an object with any names
DECIMALS = 6
LARGEST_NUMBER = 10**15
_FLOAT_DIGITS = 15
BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
LARGEST_INTEGER = 2**53 - 1  # the largest that every reader of JSON keeps exact (RFC 8259, section 6)


def add_bounds(schema: Schema) -> dict[str, Any]:
    """Return the schema with bounds for all unbounded values, and closed to properties that it does not name."""
    return map_schemas(schema, _with_bounds)


def _with_bounds(schema: dict[str, Any], place: SchemaPath) -> dict[str, Any]:
    schema.pop("uniqueItems", None)  # repetitions are removed from records
    if "enum" in schema or "const" in schema:
        return schema
    named = types(schema)
    if "string" in named and "maxLength" not in schema:
        schema["maxLength"] = max(STRING_CHARS, 2 * schema.get("minLength", 0))
    if "array" in named and "maxItems" not in schema:
        schema["maxItems"] = max(ITEMS, 2 * schema.get("minItems", 0))
    if "object" in named and place[-2:-1] != ("allOf",):  # in allOf, another schema may name more properties
        _close(schema)
    if "number" in named:
        _bound_number(schema, LARGEST_NUMBER)
        schema.setdefault("multipleOf", _step(schema))
    elif "integer" in named:
        _bound_number(schema, LARGEST_INTEGER)
    return schema


def _close(schema: dict[str, Any]) -> None:
    if "additionalProperties" not in schema and "patternProperties" not in schema:
        schema["additionalProperties"] = False
    elif schema.get("additionalProperties") is not False or "patternProperties" in schema:
        schema.setdefault("maxProperties", max(ITEMS, 2 * schema.get("minProperties", 0)))


def _bound_number(schema: dict[str, Any], largest: int) -> None:
    bounds = [schema[key] for key in BOUNDS if key in schema]
    most = max([largest, *(2 * abs(bound) for bound in bounds)])
    if "minimum" not in schema and "exclusiveMinimum" not in schema:
        schema["minimum"] = -most
    if "maximum" not in schema and "exclusiveMaximum" not in schema:
        schema["maximum"] = most


def _step(schema: Schema) -> float:
    """Return the step between numbers: 6 decimals, or those of a bound, within the precision of floats."""
    bounds = [Decimal(str(schema.get(key, 0))) for key in BOUNDS]
    decimals = max([DECIMALS, *(-int(bound.as_tuple().exponent) for bound in bounds)])
    whole_digits = max(bound.adjusted() + 1 for bound in bounds if abs(bound) < LARGEST_NUMBER)
    return float(10.0 ** -max(0, min(decimals, _FLOAT_DIGITS - whole_digits)))


def exact(value: Any) -> Any:
    """Return a JSON value with decimals in place of floats, so that 19.99 is a multiple of 0.01."""
    return json.loads(json.dumps(value), parse_float=Decimal)


def draft(schema: Schema) -> type[Validator]:
    """Return the validator of the draft that a schema names, else of the latest draft."""
    validator: type[Validator] = validators.validator_for(schema, default=validators.Draft202012Validator)
    return validator


def record_check(schema: Schema) -> Callable[[Json], str | None]:
    """Return a function that validates records by a schema, without loading schemas from the network.

    The function returns the place and the keyword that a record breaks, without its text; None for a valid record.
    """
    validator = draft(schema)(exact(schema), registry=Registry())

    def broken(record: Json) -> str | None:
        for error in validator.iter_errors(exact(record)):
            return f"{pointer(tuple(error.absolute_path))} breaks {pointer(tuple(error.absolute_schema_path))}"
        return None

    return broken


# Outputs have no white space between values.
OPTIONS: JsonCompileOptions = {"whitespace_flexible": False}
_MOST_BYTES = 100_000
_END = 256  # the token after those of the 256 bytes
# Bytes in the order in which they end a value soonest. Inside a string, the quotation mark comes first.
_SOONEST = b'}],"0123456789'
_OUTSIDE = 4  # the most bytes that can follow outside a string, where a string may begin or an object end


class _Bytes:
    """A tokenizer with a token for each byte, and an end token."""

    eos_token_id = _END
    bos_token_id = None
    special_token_ids = (_END,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"<|end|>")

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def guided(schema: Schema) -> dict[str, Any]:
    """Return a schema with its bounds and options, for llguidance in any library."""
    return {**add_bounds(schema), "x-guidance": OPTIONS}


def grammar(schema: Schema) -> str:
    """Return llguidance's grammar for the records of a schema."""
    from llguidance import LLMatcher

    return str(LLMatcher.grammar_from_json_schema(json.dumps(guided(schema))))


def problem(schema: Schema) -> str | None:
    """Return llguidance's reason to refuse a schema; None if it accepts the schema."""
    from llguidance import LLMatcher

    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar(schema))
    return " ".join(messages[0].split()) if is_error else None


def shortest(schema: Schema) -> str | None:
    """Return a short record of a schema as JSON; None if the search finds none within 100,000 bytes."""
    from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

    matcher = LLMatcher(LLTokenizer(TokenizerWrapper(_Bytes())), grammar(schema), log_level=0)
    written = bytearray()
    while not matcher.is_stopped() and len(written) < _MOST_BYTES:
        mask = matcher.compute_bitmask()
        allowed = {byte for byte in range(256) if mask[byte >> 3] >> (byte & 7) & 1}
        first = b'"' if len(allowed) > _OUTSIDE else b""
        byte = next((byte for byte in (*first, *_SOONEST, *range(256)) if byte in allowed), None)
        if byte is None or not matcher.consume_token(byte):
            break
        written.append(byte)
    return written.decode() if matcher.is_accepting() and not matcher.is_error() else None


MOST_CHARS = 100_000
_LARGEST_BOUND = 2**62  # llguidance counts in 64 bits, and add_bounds doubles some bounds
MOST_NAME_BYTES = 40  # of a property of the top level: PostgreSQL's 63 without a step's name
_EXAMPLE = '{"type": "object", "properties": {"title": {"type": "string"}}}'
# Keywords that a grammar cannot keep, each with advice.
_REFUSED: Mapping[str, str] = {
    "not": "say what is allowed, with enum or anyOf",
    **dict.fromkeys(
        ("if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies"),
        "use anyOf, with a schema for each case",
    ),
    "contains": "leave it out, or say with items what every item is",
    "minContains": "leave it out",
    "maxContains": "leave it out",
    "propertyNames": "use patternProperties",
    "unevaluatedProperties": "use additionalProperties",
    "unevaluatedItems": "use items",
    "additionalItems": "use prefixItems and items of draft 2020-12",
    "$dynamicRef": "use $ref",
    "$recursiveRef": "use $ref",
    "x-guidance": "leave it out",
    "nullable": 'write "type": ["string", "null"]',
}
# Keywords that are read as in draft 2020-12 for any draft.
_WALKED = frozenset({*SEVERAL, *NAMED, "$ref"})
# Keywords with an effect on records, which a misspelt name would lose.
_BINDING = frozenset({*validators.Draft202012Validator.VALIDATORS, *NAMED, *_REFUSED})
_TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
_LONGEST = 200  # characters of a message
# A schema with any of these keywords limits its values.
_TELLING = ("type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf")


def read(schema: object) -> str:
    """Return a schema, given as an object or as JSON text, in the form of a spec. Raises BadSchema.

    The form is JSON without white space. Keywords are sorted. Properties keep their order, in which a model writes
    them.
    """
    try:
        value = parse_json(schema) if isinstance(schema, str) else schema
        if not isinstance(value, Mapping):
            raise BadSchema(f"must be a JSON Schema such as {_EXAMPLE}")
        _require_json(value)
        _check(value)
        return json.dumps(
            map_schemas(value, _sort_keywords), ensure_ascii=False, separators=(",", ":"), allow_nan=False
        )
    except RecursionError as error:
        raise BadSchema("is nested too deep") from error
    except (ValueError, TypeError) as error:
        raise BadSchema(f"is not JSON: {error}") from error


def _require_json(value: Mapping[str, Any]) -> None:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if len(text) > MOST_CHARS:
        raise BadSchema(f"has {len(text):,} characters, and may have {MOST_CHARS:,}: describe less at once")
    if normalize_json(value)[1]:
        raise BadSchema("has a NUL or half a character, which no database stores")


def _sort_keywords(schema: dict[str, Any], _place: SchemaPath) -> dict[str, Any]:
    """Return the schema with its keywords sorted, and its properties in their order."""

    def names(key: str) -> Any:
        return {name: schema[key][name] for name in sorted(schema[key])}

    return {key: names(key) if key in NAMED and key != "properties" else schema[key] for key in sorted(schema)}


def _check(schema: Schema) -> None:
    """Raise BadSchema for a value that is no schema, or a schema that a grammar cannot keep."""
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
    """Raise BadSchema if the schema breaks the rules of its draft, or of draft 2020-12 for keywords in `_WALKED`."""
    validator, latest = draft(schema), validators.Draft202012Validator
    error = exceptions.best_match(validator(validator.META_SCHEMA).iter_errors(schema))
    if error is None:
        others = latest(latest.META_SCHEMA).iter_errors(schema)
        error = next((other for other in others if not _WALKED.isdisjoint([*other.path][-1:])), None)
    if error is not None:
        reason = error.message if len(error.message) < _LONGEST else f"it breaks {error.validator}"
        if error.absolute_path and error.absolute_path[-1] == "type":
            reason = f"there is no type {str(error.instance)[:40]!r}; there are {', '.join(_TYPES)}"
        raise BadSchema(f"is no JSON Schema at {pointer(tuple(error.absolute_path))}: {reason}")


def _problems_of_keywords(schema: Schema, place: SchemaPath) -> Iterator[tuple[SchemaPath, str]]:
    """Yield the places and problems of keywords that a grammar cannot keep, without those of inner schemas."""
    for key in schema:
        if key in _REFUSED:
            yield (*place, key), f"a model cannot be held to {key}; {_REFUSED[key]}"
        elif key not in _BINDING and (near := _find_misspelt(key)):
            yield (*place, key), f"there is no keyword {key}; did you mean {near}?"
    for key in ("exclusiveMinimum", "exclusiveMaximum"):
        if isinstance(schema.get(key), bool):
            yield (*place, key), "it is true or false, as in draft 4; write the bound itself"
    for key in BOUNDS:
        if abs(schema.get(key, 0)) > _LARGEST_BOUND:
            yield (*place, key), f"no model can be held to a bound beyond {_LARGEST_BOUND:.1e}; leave it out"
    if isinstance(items := schema.get("items"), list):
        yield (*place, "items"), f"it has {len(items)} schemas; use prefixItems of draft 2020-12"


def _find_misspelt(key: str) -> str | None:
    """Return the binding keyword that an unknown keyword misspells. Other unknown keywords are annotations."""
    near = (name for name in find_similar(key, _BINDING - {"not"}) if abs(len(name) - len(key)) <= 1)
    return next(near, None)


def _problems_of_patterns(schema: Schema, place: SchemaPath) -> Iterator[tuple[SchemaPath, str]]:
    """Yield patterns that Python's `re` cannot read: it validates records."""
    named = {(*place, "patternProperties", name): name for name in schema.get("patternProperties", ())}
    if "pattern" in schema:
        named[*place, "pattern"] = schema["pattern"]
    for keys, pattern in named.items():
        try:
            with warnings.catch_warnings():
                # A class inside a class, as in [[:alpha:]], is a class for llguidance, and characters for Python.
                warnings.simplefilter("error", FutureWarning)
                re.compile(pattern)
        except (re.error, OverflowError, FutureWarning) as error:
            advice = "write it as Python's re and Rust's regex both read it, such as [A-Z], (?P<name>…) or $"
            yield keys, f"Python cannot read the pattern: {error}; {advice}"


def _problems_of_values(schema: Schema, place: SchemaPath, root: Schema) -> Iterator[tuple[SchemaPath, str]]:
    """Yield the places and problems of references to nothing, and of values without a type."""
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
    for key in ("properties", "patternProperties", "prefixItems", "anyOf", "oneOf"):
        several = schema.get(key, {})
        for name, inner in several.items() if isinstance(several, Mapping) else enumerate(several):
            if inner is True:
                yield (*place, key, name), 'true allows any value; give a type, such as {"type": "string"}'
    for name in schema.get("properties", {}):
        if not is_printable(name):
            yield (*place, "properties"), f"a name has a character that cannot be printed: {name!a}"
        if not place and len(name.encode()) > MOST_NAME_BYTES:
            yield ("properties", name), f"the name is too long for a column: it may have {MOST_NAME_BYTES} bytes"


def _is_told(place: SchemaPath, root: Schema) -> bool:
    """Return True for an alternative or condition if the schema around it states the type."""
    if len(place) < 2 or place[-2] not in SEVERAL:
        return False
    around = at(root, pointer(place[:-2]))
    return place[-2] == "allOf" or any(key in around for key in ("type", "$ref", "allOf"))


def _has_properties(schema: Schema) -> bool:
    telling = {*_TELLING, "properties", "patternProperties"} - {"type"}
    return not telling.isdisjoint(schema) or isinstance(schema.get("additionalProperties"), Mapping)


def _check_grammar(schema: Schema) -> None:
    """Raise BadSchema for a schema without a grammar in llguidance, or without valid records.

    A client without the models' libraries leaves this check to the workers.
    """
    if not LOCAL.is_installed:
        return
    if (reason := problem(schema)) is not None:
        place, reason = _find_place(schema, reason)
        raise BadSchema(f"cannot be kept at {pointer(place)}: {_add_advice(reason)}")
    text = shortest(schema)
    if text is None:
        raise BadSchema("allows no record that ends: does a required property contain itself?")
    # Repetitions are removed after a model has written a record, and only then minItems counts.
    repeating = map_schemas(schema, lambda inner, _: {key: inner[key] for key in inner if key != "uniqueItems"})
    if (broken := record_check(repeating)(parse_json(text))) is not None:
        raise BadSchema(f"cannot be kept: a record that the grammar allows is not valid; {broken}")


def _add_advice(reason: str) -> str:
    """Return llguidance's reason, with advice."""
    if reason.startswith("oneOf"):
        return "its alternatives overlap; use anyOf in place of oneOf"
    if reason.startswith("Unknown format"):
        return f"docmill knows no such format{reason.removeprefix('Unknown format')}; use pattern, or leave it out"
    if " range" in reason or "multipleOf" in reason:
        return f"{reason}; use bounds nearer to 0, or with fewer digits"
    if "regex" in reason:
        return f"{reason}; use a simpler pattern"
    return reason


def _find_place(root: Schema, reason: str) -> tuple[SchemaPath, str]:
    """Return the innermost schema that makes no grammar by itself, and the reason. ``said`` is the root's reason."""
    shared = {key: root[key] for key in ("$defs", "definitions", "$schema") if key in root}
    innermost: tuple[SchemaPath, str] = (), reason
    for place, inner in walk(root):
        if len(place) > len(innermost[0]) and (inner_said := problem({**shared, **inner})):
            innermost = place, inner_said
    return innermost
