"""JSON Schemas: walk and describe them, and merge the records of a document's windows by them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Any, TypeAlias

from docmill.storage.json_values import Json

Schema: TypeAlias = Mapping[str, Any]
SchemaPath: TypeAlias = tuple[str | int, ...]

# Keywords whose value is a schema, a list of schemas, or schemas by name.
ONE = ("items", "additionalProperties")
SEVERAL = ("prefixItems", "anyOf", "oneOf", "allOf")
NAMED = ("properties", "patternProperties", "$defs", "definitions")
# The version of the grammars and their bounds (`tasks.schema_checks`), a part of the specs that use them.
GRAMMAR = 1


def walk(schema: Schema, place: SchemaPath = ()) -> Iterator[tuple[SchemaPath, Schema]]:
    """Yield a schema, then its inner schemas, each with the keys that lead to it. Leaves out true and false."""
    yield place, schema
    for key, inner in _list_inner(schema):
        yield from walk(inner, (*place, *key))


def _list_inner(schema: Schema) -> Iterator[tuple[SchemaPath, Schema]]:
    pairs: list[tuple[SchemaPath, Any]] = [((key,), schema.get(key)) for key in ONE]
    for key in SEVERAL:
        pairs += [((key, number), inner) for number, inner in enumerate(schema.get(key, ()))]
    for key in NAMED:
        pairs += [((key, name), inner) for name, inner in schema.get(key, {}).items()]
    return ((key, inner) for key, inner in pairs if isinstance(inner, Mapping))


def map_schemas(
    schema: Schema, change: Callable[[dict[str, Any], SchemaPath], dict[str, Any]], place: SchemaPath = ()
) -> dict[str, Any]:
    """Return a schema with all inner schemas changed, and then the schema itself."""

    def inside(inner: Any, *key: str | int) -> Any:
        return map_schemas(inner, change, (*place, *key)) if isinstance(inner, Mapping) else inner

    made = dict(schema)
    for key in made:
        if key in ONE:
            made[key] = inside(made[key], key)
        elif key in SEVERAL:
            made[key] = [inside(inner, key, number) for number, inner in enumerate(made[key])]
        elif key in NAMED:
            made[key] = {name: inside(inner, key, name) for name, inner in made[key].items()}
    return change(made, place)


def pointer(place: SchemaPath) -> str:
    """Return a place as a JSON Pointer, such as #/properties/price (RFC 6901, section 6)."""
    return "#" + "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in place)


def at(schema: Schema, reference: str) -> Any:
    """Return the value at a reference in the schema, or None."""
    value: Any = schema
    for key in reference.removeprefix("#").split("/")[1:]:
        name = key.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping):
            value = value.get(name)
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


def follow(schema: Any, root: Schema) -> Schema:
    """Return the schema at a reference, with the keywords beside the reference."""
    target: Any = schema if isinstance(schema, Mapping) else {}
    seen = set()
    while "$ref" in target and target["$ref"] not in seen:
        seen.add(target["$ref"])
        beside = {key: value for key, value in target.items() if key != "$ref"}
        target = {**(at(root, target["$ref"]) or {}), **beside}
    return target  # type: ignore[no-any-return]


def types(schema: Schema) -> tuple[str, ...]:
    """Return the types that a schema names."""
    named = schema.get("type", ())
    return (named,) if isinstance(named, str) else tuple(named)


_DEEPEST = 4


def describe(schema: Schema) -> str:
    """Return a line with the name, type and description of each property and each inner property."""
    return "\n".join(_lines(schema, schema, ()))


def _lines(schema: Schema, root: Schema, around: tuple[Schema, ...]) -> Iterator[str]:
    """Yield the lines of a schema's properties. ``around`` are the properties that contain them."""
    properties = schema["properties"]
    for name, declared in properties.items():
        inner = follow(declared, root)
        about = inner.get("description") or inner.get("title")
        words = f": {' '.join(str(about).split())}" if about else ""
        yield f"{'  ' * len(around)}- {name} ({_type(inner, root)}){words}"
        for nested in _objects(inner, root):
            if not any(nested["properties"] is outer for outer in (*around, properties)):
                yield from _lines(nested, root, (*around, properties))


def _objects(schema: Schema, root: Schema, depth: int = 0) -> Iterator[Schema]:
    """Yield the schemas with the inner properties of a property: its own, and those of items and alternatives."""
    if "properties" in schema:
        yield schema
    if depth < _DEEPEST:
        for inner in (schema.get("items"), *(alternative for key in SEVERAL for alternative in schema.get(key, ()))):
            yield from _objects(follow(inner, root), root, depth + 1)


def _type(schema: Schema, root: Schema, depth: int = 0) -> str:
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    if "enum" in schema:
        return " or ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    if depth < _DEEPEST and (several := schema.get("anyOf") or schema.get("oneOf")):
        return " or ".join(
            dict.fromkeys(_type(follow(alternative, root), root, depth + 1) for alternative in several)
        )
    names = types(schema)
    if depth < _DEEPEST and names == ("array",) and "items" in schema:
        return f"list of {_type(follow(schema['items'], root), root, depth + 1)}"
    form = f", {schema['format']}" if "format" in schema else ""
    return (" or ".join("list" if name == "array" else name for name in names) or "value") + form


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. Raises ValueError, also for NaN and Infinity."""
    return json.loads(text, parse_constant=_refuse)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def drop_repetitions(value: Any, schema: Any, root: Schema) -> Any:
    """Return a value without repetitions in lists whose schema says ``uniqueItems``.

    References in ``schema`` lead into ``root``.
    """
    if isinstance(value, dict):
        return {
            name: drop_repetitions(inner, _find_property_schema(schema, name, root), root)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        for form in reversed(_list_forms(schema, root)):
            value = [drop_repetitions(item, form.get("items"), root) for item in value]
            value = _without_repetitions(value) if form.get("uniqueItems") else value
    return value


def _without_repetitions(items: Iterable[Any]) -> list[Any]:
    """Return the items without those that equal an earlier item."""
    first: dict[str, Any] = {}
    for item in items:
        first.setdefault(_key(item), item)
    return [*first.values()]


def _key(item: Json) -> str:
    """Return a text that equal JSON values share: 1 equals 1.0."""

    def plain(value: Json) -> Json:
        if isinstance(value, dict):
            return {name: plain(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [plain(inner) for inner in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return json.dumps(plain(item), sort_keys=True)


def merge_records(records: Sequence[Any], schema: Schema) -> Any:
    """Return the records of a document's windows as one, by these rules at every level.

    Objects are merged by property, up to ``maxProperties``. Lists are concatenated without repetitions, up to
    ``maxItems``. Of other values, and of those in an ``enum``, the first counts that is not null or an empty text.
    """
    merged, *others = records
    for other in others:
        merged = _merge(merged, other, schema, schema)
    return merged


def _merge(first: Any, other: Any, schema: Any, root: Schema) -> Any:
    forms = _list_forms(schema, root)
    if any(first in form.get("enum", [form["const"]] if "const" in form else []) for form in forms):
        return other if first is None or first == "" else first
    if isinstance(first, dict) and isinstance(other, dict):
        merged = {
            name: _merge(first[name], other[name], _find_property_schema(schema, name, root), root)
            if name in first and name in other
            else first.get(name, other.get(name))
            for name in dict.fromkeys([*first, *other])
        }
        return dict([*merged.items()][: _room(schema, root, "object", "maxProperties")])
    if isinstance(first, list) and isinstance(other, list):
        known = {_key(item) for item in first}
        both = [*first, *(item for item in _without_repetitions(other) if _key(item) not in known)]
        return both[: _room(schema, root, "array", "maxItems")]
    return other if first is None or first == "" else first


def _find_property_schema(schema: Any, name: str, root: Schema, outer: frozenset[int] = frozenset()) -> Schema:
    """Return the schema of an object's property: by its name and patterns, else by ``additionalProperties``."""
    form = follow(schema, root)
    patterns, others = form.get("patternProperties", {}), form.get("additionalProperties")
    stated = [form["properties"][name]] if name in form.get("properties", {}) else []
    stated += [inner for pattern, inner in patterns.items() if re.search(pattern, name)]
    if not stated and isinstance(others, Mapping):
        stated = [others]

    def within(key: str) -> list[Schema]:
        inner = [each for each in form.get(key, ()) if id(each) not in outer]  # a reference may lead back
        objects = [each for each in inner if "object" in (types(follow(each, root)) or ("object",))]
        return [_find_property_schema(each, name, root, outer | {id(each)}) for each in objects]

    # An alternative that says nothing about the property would lift the bounds of the others.
    told_by = [[each for each in within(key) if each["allOf"]] for key in ("anyOf", "oneOf")]
    several = [{"anyOf": schemas} for schemas in told_by if schemas]
    return {"allOf": [*stated, *within("allOf"), *several]}


def _list_forms(schema: Any, root: Schema, outer: frozenset[int] = frozenset()) -> list[Schema]:
    """Return a schema and its alternatives, with references resolved."""
    form = follow(schema, root)
    alternatives = (*form.get("anyOf", ()), *form.get("oneOf", ()), *form.get("allOf", ()))
    inner = [each for each in alternatives if id(each) not in outer]  # a reference may lead back
    return [form, *(found for each in inner for found in _list_forms(each, root, outer | {id(each)}))]


def _room(schema: Any, root: Schema, name: str, bound: str) -> int | None:
    """Return the most members of a value of type ``name``; None without such a type or a positive bound."""
    most = _count_most(schema, root, name, bound)
    return None if most in {0, inf} else int(most)


def _count_most(schema: Any, root: Schema, name: str, bound: str, outer: frozenset[int] = frozenset()) -> float:
    """Return the most members of a value: the lowest bound of ``allOf``, and the highest of other alternatives."""
    form = follow(schema, root)
    if (named := types(form)) and name not in named:
        return 0

    def of(word: str) -> list[float]:
        inner = [each for each in form.get(word, ()) if id(each) not in outer]
        return [_count_most(each, root, name, bound, outer | {id(each)}) for each in inner]

    widest = [max(most) for word in ("anyOf", "oneOf") if (most := of(word))]
    stated: float = form.get(bound, inf)
    return min([stated, *widest, *of("allOf")])
