"""The options of the Python API are those of the command line, with their types."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from pydantic import create_model
from pydantic.fields import FieldInfo

from docmill.tasks import kinds
from docmill.tasks.kinds.options import key
from docmill.worker.api.options import NAMES, Options, python_name
from docmill.worker.submit.options import Work

PARAMETERS = {"model", "corpus"}  # options that the functions have as parameters
TYPES = {"string": str, "integer": int, "number": float, "boolean": bool, "null": type(None)}
DECLARED: Mapping[str, FieldInfo] = {
    **{name: field for name, field in Work.model_fields.items() if name in NAMES},
    **{python_name(key(name, field)): field for name, field in kinds.OPTIONS.items()},
}


def types_of(schema: Mapping[str, Any]) -> set[Any]:
    """Return the Python types of a value, by its JSON Schema."""
    if "anyOf" in schema:
        return {kind for option in schema["anyOf"] for kind in types_of(option)}
    if "enum" in schema:
        return {Literal[*schema["enum"]]}
    if schema["type"] == "array":
        return {Sequence[tuple(types_of(schema["items"]))]}
    if schema["type"] == "object":
        values = schema.get("additionalProperties")
        return {Mapping[str, tuple(types_of(values)) if isinstance(values, dict) else Any]}
    return {TYPES[schema["type"]]}


def written(annotation: Any) -> set[Any]:
    return set(get_args(annotation)) if get_origin(annotation) in {Union, types.UnionType} else {annotation}


def test_every_option_is_an_option_of_the_api() -> None:
    assert set(Options.__annotations__) == set(NAMES) - PARAMETERS


@pytest.mark.parametrize("name", sorted(set(NAMES) - PARAMETERS))
def test_an_option_has_the_type_that_it_has_on_the_command_line(name: str) -> None:
    field = DECLARED[name]
    model = create_model("Model", value=(field.annotation, field))
    wanted = types_of(model.model_json_schema()["properties"]["value"]) | {type(None)}
    assert {str(kind) for kind in written(get_type_hints(Options)[name])} == {str(kind) for kind in wanted}
