"""The option of kinds whose models write JSON that is valid by a schema."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from tasks.kinds.options import Option

_EXAMPLE = {
    "type": "object",
    "properties": {"title": {"type": "string", "description": "the title"}, "price": {"type": "number"}},
    "required": ["title"],
}


def _canonical(given: object) -> str:
    from tasks.schemas import checks

    try:
        return checks.read(given)
    except checks.BadSchema as error:
        raise PydanticCustomError("value", "{sentence}", {"sentence": str(error)}) from error


# Fields of this type are named json_schema, since "schema" is a method of pydantic's models.
JsonSchema = Annotated[
    str | None,
    BeforeValidator(_canonical),
    Field(description="JSON Schema of the records, in a file.", examples=[_EXAMPLE]),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}]}),
    Option(spelling="schema", metavar="FILE", in_file=True),
]
