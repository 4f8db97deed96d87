"""Columns for the properties of a record, by its JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping

from docmill.storage.json_values import Json
from docmill.storage.outputs.columns import Form

_FORMS = {"string": Form.TEXT, "integer": Form.INTEGER, "number": Form.NUMBER, "boolean": Form.BOOLEAN}
_NAMES: Mapping[type, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_ANY = "any"
_TYPES: Mapping[Form, tuple[type, ...]] = {
    Form.TEXT: (str,),
    Form.INTEGER: (int,),
    Form.NUMBER: (int, float),
    Form.BOOLEAN: (bool,),
    Form.TEXTS: (list,),
}
_DEEPEST = 8  # references and alternatives inside one another


def form_of(schema: Json, root: Mapping[str, Json]) -> Form:
    """Return the form of a property's values; JSON where its schema allows values of several types.

    References of ``schema`` lead into ``root``.
    """
    named = _types(schema, root)
    if named == {"array"} and _types(_followed(schema, root).get("items"), root) == {"string"}:
        return Form.TEXTS
    return _FORMS.get(named.pop(), Form.JSON) if len(named) == 1 else Form.JSON


def fits(value: Json, form: Form) -> bool:
    """Return True if a property's value is one of the form."""
    return form is Form.JSON or (isinstance(value, _TYPES[form]) and (form is Form.BOOLEAN) == (type(value) is bool))


def _types(schema: Json, root: Mapping[str, Json], depth: int = _DEEPEST) -> set[str]:
    """Return the types of values that a schema allows, as far as it says; null is left out."""
    found = _followed(schema, root)
    if "enum" in found or "const" in found:
        values = found.get("enum", [found.get("const")])
        return {_NAMES.get(type(value), _ANY) for value in _listed(values)} - {"null"}
    if "type" in found:
        named = found["type"]
        return {*map(str, named if isinstance(named, list) else [named])} - {"null"}
    several = found.get("anyOf") or found.get("oneOf")
    inner = (_types(one, root, depth - 1) for one in _listed(several)) if depth else ()
    return {name for names in inner for name in names} or {_ANY}


def _listed(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _followed(schema: Json, root: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return the schema that references lead to; an empty one where they lead to none."""
    found = schema
    for _ in range(_DEEPEST):
        if not isinstance(found, dict):
            break
        reference = found.get("$ref")
        if not isinstance(reference, str):
            return found
        found = {**root}
        for key in reference.removeprefix("#/").split("/"):
            name = key.replace("~1", "/").replace("~0", "~")
            found = found.get(name) if isinstance(found, dict) else None
    return {}
