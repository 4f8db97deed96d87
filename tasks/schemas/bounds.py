"""Bounds of values that a schema leaves open, so that almost every output ends.

A model that repeats itself fills a string, a list or a number without end. Bounds of the schema itself stay.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from tasks.schemas.walk import Place, Schema, mapped, types

STRING_CHARS = 400
ITEMS = 32  # of a list, and properties of an object whose names are open
DECIMALS = 6
LARGEST_NUMBER = 10**15
_FLOAT_DIGITS = 15
BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
LARGEST_INTEGER = 2**53 - 1  # the largest that every reader of JSON keeps exact (RFC 8259, section 6)


def bounded(schema: Schema) -> dict[str, Any]:
    """Return the schema with a bound for everything that has none, and without properties that it does not name."""
    return mapped(schema, _with_bounds)


def _with_bounds(schema: dict[str, Any], place: Place) -> dict[str, Any]:
    schema.pop("uniqueItems", None)  # repetitions are removed from records
    if "enum" in schema or "const" in schema:
        return schema
    named = types(schema)
    if "string" in named and "maxLength" not in schema:
        schema["maxLength"] = max(STRING_CHARS, 2 * schema.get("minLength", 0))
    if "array" in named and "maxItems" not in schema:
        schema["maxItems"] = max(ITEMS, 2 * schema.get("minItems", 0))
    if "object" in named and place[-2:-1] != ("allOf",):  # where another schema may name more properties
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
    given = [schema[key] for key in BOUNDS if key in schema]
    most = max([largest, *(2 * abs(bound) for bound in given)])
    if "minimum" not in schema and "exclusiveMinimum" not in schema:
        schema["minimum"] = -most
    if "maximum" not in schema and "exclusiveMaximum" not in schema:
        schema["maximum"] = most


def _step(schema: Schema) -> float:
    """Return the distance of numbers: 6 decimals, or as many as a bound has, as far as floats tell them apart."""
    bounds = [Decimal(str(schema.get(key, 0))) for key in BOUNDS]
    decimals = max([DECIMALS, *(-int(bound.as_tuple().exponent) for bound in bounds)])
    whole_digits = max(bound.adjusted() + 1 for bound in bounds if abs(bound) < LARGEST_NUMBER)
    return float(10.0 ** -max(0, min(decimals, _FLOAT_DIGITS - whole_digits)))
