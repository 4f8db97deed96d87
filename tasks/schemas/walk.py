"""The schemas inside a JSON Schema, each with its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

Schema: TypeAlias = Mapping[str, Any]
Place: TypeAlias = tuple[str | int, ...]

# Keywords whose value is a schema, a list of schemas, or schemas by name.
ONE = ("items", "additionalProperties")
SEVERAL = ("prefixItems", "anyOf", "oneOf", "allOf")
NAMED = ("properties", "patternProperties", "$defs", "definitions")


def walk(schema: Schema, place: Place = ()) -> Iterator[tuple[Place, Schema]]:
    """Yield a schema, then the schemas inside it, each with the keys that lead to it. Leaves out true and false."""
    yield place, schema
    for key, inner in _inner(schema):
        yield from walk(inner, (*place, *key))


def _inner(schema: Schema) -> Iterator[tuple[Place, Schema]]:
    found: list[tuple[Place, Any]] = [((key,), schema.get(key)) for key in ONE]
    for key in SEVERAL:
        found += [((key, number), one) for number, one in enumerate(schema.get(key, ()))]
    for key in NAMED:
        found += [((key, name), one) for name, one in schema.get(key, {}).items()]
    return ((key, inner) for key, inner in found if isinstance(inner, Mapping))


def mapped(
    schema: Schema, change: Callable[[dict[str, Any], Place], dict[str, Any]], place: Place = ()
) -> dict[str, Any]:
    """Return a schema in which each schema inside was changed, and then the schema itself."""

    def inside(one: Any, *key: str | int) -> Any:
        return mapped(one, change, (*place, *key)) if isinstance(one, Mapping) else one

    made = dict(schema)
    for key in made:
        if key in ONE:
            made[key] = inside(made[key], key)
        elif key in SEVERAL:
            made[key] = [inside(one, key, number) for number, one in enumerate(made[key])]
        elif key in NAMED:
            made[key] = {name: inside(one, key, name) for name, one in made[key].items()}
    return change(made, place)


def pointer(place: Place) -> str:
    """Return a place as a JSON Pointer, such as #/properties/price (RFC 6901, section 6)."""
    return "#" + "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in place)


def at(schema: Schema, reference: str) -> Any:
    """Return the value that a reference inside the schema leads to, or None."""
    found: Any = schema
    for key in reference.removeprefix("#").split("/")[1:]:
        name = key.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(name)
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found


def followed(schema: Any, root: Schema) -> Schema:
    """Return the schema that a reference leads to, with the words beside the reference."""
    found: Any = schema if isinstance(schema, Mapping) else {}
    seen = set()
    while "$ref" in found and found["$ref"] not in seen:
        seen.add(found["$ref"])
        beside = {key: value for key, value in found.items() if key != "$ref"}
        found = {**(at(root, found["$ref"]) or {}), **beside}
    return found  # type: ignore[no-any-return]


def types(schema: Schema) -> tuple[str, ...]:
    """Return the types that a schema names."""
    named = schema.get("type", ())
    return (named,) if isinstance(named, str) else tuple(named)
