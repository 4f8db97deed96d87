"""The options of the Python API are those of the command line, with their types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import pytest
from pydantic import create_model
from pydantic.fields import FieldInfo

from docmill.tasks import kinds
from docmill.tasks.kinds.options import key
from docmill.worker.api.mill import NAMES, Options, Task, python_name
from docmill.worker.submit.options import Request

TYPES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
DECLARED: Mapping[str, FieldInfo] = {
    **{name: field for name, field in Request.model_fields.items() if name in NAMES},
    **{python_name(key(name, field)): field for name, field in kinds.OPTIONS.items()},
}


def names_of(schema: Mapping[str, Any]) -> set[str]:
    """Return the names of the Python types of a value, by its JSON Schema."""
    if "anyOf" in schema:
        return {name for option in schema["anyOf"] for name in names_of(option)}
    if "enum" in schema:
        return {f"Literal[{', '.join(map(repr, schema['enum']))}]"}
    if schema["type"] == "array":
        return {f"Sequence[{the_only(names_of(schema['items']))}]"}
    if schema["type"] == "object":
        values = schema.get("additionalProperties")
        return {f"Mapping[str, {the_only(names_of(values)) if isinstance(values, dict) else 'Any'}]"}
    return {TYPES[schema["type"]]}


def the_only(names: set[str]) -> str:
    (name,) = names
    return name


def test_every_task_of_docmill_is_a_task_of_the_api() -> None:
    assert get_args(Task) == tuple(sorted(kinds.NAMES))


def test_every_option_is_an_option_of_the_api() -> None:
    assert set(Options.__annotations__) == set(NAMES)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_an_option_has_the_type_that_it_has_on_the_command_line(name: str) -> None:
    field = DECLARED[name]
    annotation: Any = field.annotation
    model = create_model("Model", value=(annotation, field))
    declared = Options.__annotations__[name].__forward_arg__
    expected = names_of(model.model_json_schema()["properties"]["value"]) | {"None"}
    assert {*declared.replace('"', "'").split(" | ")} == expected
