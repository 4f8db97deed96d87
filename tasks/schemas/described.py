"""A schema's properties in lines that a model reads."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tasks.schemas.walk import SEVERAL, Schema, followed, types

_DEEPEST = 4


def described(schema: Schema) -> str:
    """Return a line for each property: its name, type and description, and those of the properties inside it."""
    return "\n".join(_lines(schema, schema, ()))


def _lines(schema: Schema, root: Schema, around: tuple[Schema, ...]) -> Iterator[str]:
    """Yield the lines of a schema's properties; ``around`` are the properties that these stand in."""
    properties = schema["properties"]
    for name, given in properties.items():
        inner = followed(given, root)
        about = inner.get("description") or inner.get("title")
        words = f": {' '.join(str(about).split())}" if about else ""
        yield f"{'  ' * len(around)}- {name} ({_type(inner, root)}){words}"
        for nested in _objects(inner, root):
            if not any(nested["properties"] is one for one in (*around, properties)):
                yield from _lines(nested, root, (*around, properties))


def _objects(schema: Schema, root: Schema, depth: int = 0) -> Iterator[Schema]:
    """Yield the schemas whose properties belong under a property: its own, and those of items and alternatives."""
    if "properties" in schema:
        yield schema
    if depth < _DEEPEST:
        for inner in (schema.get("items"), *(one for key in SEVERAL for one in schema.get(key, ()))):
            yield from _objects(followed(inner, root), root, depth + 1)


def _type(schema: Schema, root: Schema, depth: int = 0) -> str:
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    if "enum" in schema:
        return " or ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    if depth < _DEEPEST and (several := schema.get("anyOf") or schema.get("oneOf")):
        return " or ".join(dict.fromkeys(_type(followed(one, root), root, depth + 1) for one in several))
    names = types(schema)
    if depth < _DEEPEST and names == ("array",) and "items" in schema:
        return f"list of {_type(followed(schema['items'], root), root, depth + 1)}"
    form = f", {schema['format']}" if "format" in schema else ""
    return (" or ".join("list" if name == "array" else name for name in names) or "value") + form
