"""Records held against their schema, and those of a document's windows as one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from storage.json_values import Json
from tasks.schemas.walk import Schema, followed, pointer

if TYPE_CHECKING:
    from jsonschema.protocols import Validator


def parsed(text: str) -> Any:
    """Return the value of a JSON text. Raises ValueError, also for NaN and Infinity."""
    return json.loads(text, parse_constant=_refuse)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def exact(value: Any) -> Any:
    """Return a JSON value with decimals in place of floats, so that 19.99 is a multiple of 0.01."""
    return json.loads(json.dumps(value), parse_float=Decimal)


def draft(schema: Schema) -> type[Validator]:
    """Return the validator of the draft that a schema names, or of the latest."""
    from jsonschema import validators

    found: type[Validator] = validators.validator_for(schema, default=validators.Draft202012Validator)
    return found


class RecordChecks:
    """The validation of records by a schema, without a look at other schemas on the network."""

    def __init__(self, schema: Schema) -> None:
        from referencing import Registry

        self._validator = draft(schema)(exact(schema), registry=Registry())

    def problem(self, record: Json) -> str | None:
        """Return the place and the keyword that a record breaks, without its text; None for a valid record."""
        error = next(self._validator.iter_errors(exact(record)), None)
        if error is None:
            return None
        return f"{pointer(tuple(error.absolute_path))} breaks {pointer(tuple(error.absolute_schema_path))}"


def distinct(value: Any, schema: Any, root: Schema) -> Any:
    """Return a value without repetitions in the lists whose schema says ``uniqueItems``, the first of each kept.

    References of ``schema`` lead into ``root``.
    """
    told = followed(schema, root)
    for one in (*told.get("anyOf", ()), *told.get("oneOf", ()), *told.get("allOf", ())):
        value = distinct(value, one, root)
    if isinstance(value, dict):
        named, others = told.get("properties", {}), told.get("additionalProperties")
        return {name: distinct(inner, named.get(name, others), root) for name, inner in value.items()}
    if isinstance(value, list):
        items = [distinct(item, told.get("items"), root) for item in value]
        return _without_repetitions(items) if told.get("uniqueItems") else items
    return value


def _without_repetitions(items: Iterable[Any]) -> list[Any]:
    """Return the items with the first of those that are equal."""
    first: dict[str, Any] = {}
    for item in items:
        first.setdefault(_key(item), item)
    return [*first.values()]


def _key(item: Json) -> str:
    """Return a text that is the same for equal JSON values: 1 and 1.0 are equal."""

    def plain(value: Json) -> Json:
        if isinstance(value, dict):
            return {name: plain(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [plain(inner) for inner in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return json.dumps(plain(item), sort_keys=True)


def merged(records: Sequence[Any], schema: Schema) -> Any:
    """Return the records of a document's windows as one, by these rules at every level.

    Objects are merged by property. Lists are put one after the other without repetitions, and end at the schema's
    ``maxItems``. Of other values the first that is not null or an empty text counts.
    """
    found, *others = records
    for other in others:
        found = _merged(found, other, schema)
    return found


def _merged(one: Any, other: Any, schema: Schema) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        properties = schema.get("properties", {})
        names = dict.fromkeys([*one, *other])
        return {
            name: _merged(one[name], other[name], _inside(properties.get(name)))
            if name in one and name in other
            else one.get(name, other.get(name))
            for name in names
        }
    if isinstance(one, list) and isinstance(other, list):
        known = {_key(item) for item in one}
        both = [*one, *(item for item in _without_repetitions(other) if _key(item) not in known)]
        return both[: schema.get("maxItems", len(both))]
    return other if one is None or one == "" else one


def _inside(schema: object) -> Schema:
    return schema if isinstance(schema, dict) else {}
