"""Tables as classes with typed columns. A class stands for its table in any statement.

Of SQLAlchemy only its Core: no object here is ever a row, and its ORM would be loaded whenever a command starts.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeAlias, TypeVar, overload

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.schema import SchemaItem
from sqlalchemy.sql.expression import ColumnClause
from sqlalchemy.types import TypeEngine

T = TypeVar("T")
Reference: TypeAlias = ForeignKey | None

BigId = BigInteger().with_variant(Integer, "sqlite")
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

_TYPES: dict[Any, TypeEngine[Any]] = {
    bool: Boolean(),
    int: BigId,
    float: Double(),
    str: Text(),
    bytes: LargeBinary(),
    Any: Json,
}


class Base:
    """The base class of tables: `__tablename__`, columns, and `__table_args__` for indexes of several columns."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    __table__: ClassVar[Table]
    __tablename__: ClassVar[str]
    __table_args__: ClassVar[tuple[SchemaItem, ...]] = ()

    def __init_subclass__(cls) -> None:
        columns = {name: value for name, value in vars(cls).items() if isinstance(value, Column)}
        for name, one in columns.items():
            one.name = one.key = name
        cls.__table__ = Table(cls.__tablename__, Base.metadata, *columns.values(), *cls.__table_args__)

    @classmethod
    def __clause_element__(cls) -> Table:
        """Return the table, when SQLAlchemy finds the class in a statement."""
        return cls.__table__


# ColumnClause, since type checkers refuse a Column as a class's attribute: SQLAlchemy wants it read from `Table.c`.
@overload
def column(kind: type[T], reference: Reference = None, *, nullable: Literal[True]) -> ColumnClause[T | None]: ...
@overload
def column(kind: type[T], reference: Reference = None, **more: Any) -> ColumnClause[T]: ...
@overload
def column(kind: Any, reference: Reference = None, **more: Any) -> ColumnClause[Any]: ...
def column(kind: Any, reference: Reference = None, *, nullable: bool = False, **more: Any) -> ColumnClause[Any]:
    """A column for values of a kind (Any: JSON), perhaps a foreign key, with SQLAlchemy's own arguments; it is called
    as the attribute is."""
    return Column(_TYPES[kind], *([] if reference is None else [reference]), nullable=nullable, **more)
