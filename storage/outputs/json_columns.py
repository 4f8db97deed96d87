"""Values out of JSON columns, as both databases select them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Boolean, ColumnElement, Double, Numeric, Text, func, literal_column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeEngine

from docmill.storage.outputs.columns import Form

_TYPES: dict[Form, TypeEngine[Any]] = {Form.INTEGER: Numeric(), Form.NUMBER: Double(), Form.BOOLEAN: Boolean()}


class scalar(FunctionElement[Any]):  # noqa: N801 - reads as the SQL function that it is
    """A number or a boolean under some keys in JSON as a value of SQL; NULL for a JSON value of another type."""

    inherit_cache = False

    def __init__(self, data: ColumnElement[Any], form: Form, *keys: str | int) -> None:
        self.type = _TYPES[form]
        self.keys = keys
        self.value = _at(data, keys)
        super().__init__(data)


@compiles(scalar, "postgresql")
def _postgresql(element: scalar, compiler: SQLCompiler, **options: Any) -> str:
    value = compiler.process(element.value, **options)
    kind = "boolean" if isinstance(element.type, Boolean) else "number"
    cast = compiler.dialect.type_compiler_instance.process(element.type)
    return f"CASE jsonb_typeof({value}) WHEN '{kind}' THEN CAST(({value}) #>> '{{}}' AS {cast}) END"


@compiles(scalar, "sqlite")
def _sqlite(element: scalar, compiler: SQLCompiler, **options: Any) -> str:
    data = compiler.process(element.clauses, **options)
    keys = "".join(f"[{key}]" if isinstance(key, int) else f'."{key}"' for key in element.keys)
    at = f"({data}, '${keys.replace(chr(39), chr(39) * 2)}')"
    types = "'true', 'false'" if isinstance(element.type, Boolean) else "'integer', 'real'"
    return f"CASE WHEN json_type{at} IN ({types}) THEN json_extract{at} END"


def _at(data: ColumnElement[Any], keys: tuple[str | int, ...]) -> ColumnElement[Any]:
    for key in keys:
        data = data[key]
    return data


def selected(data: ColumnElement[Any], form: Form, *keys: str | int) -> ColumnElement[Any]:
    """Return the value under these keys, one inside the other, with the type of a column of this form."""
    if form in _TYPES:
        return scalar(data, form, *keys)
    value = _at(data, keys)
    if form is Form.TEXT:
        return value.as_string()  # type: ignore[no-any-return]
    # SQLite returns a missing value as the JSON value null.
    return func.nullif(value, literal_column("'null'"), type_=Text())
