"""Tables as classes with typed columns, and the database's clock.

A class stands for its table in any statement, an instance is a row. Of SQLAlchemy only its Core: a row is a value
that nothing writes back, and the ORM would be loaded whenever a command starts.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Protocol, Self, TypeAlias, TypeVar, overload

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import SchemaItem
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ColumnClause, ColumnElement
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
        for name, attribute in columns.items():
            attribute.name = attribute.key = name
        cls.__table__ = Table(cls.__tablename__, Base.metadata, *columns.values(), *cls.__table_args__)

    @classmethod
    def of(cls, row: Row[*tuple[Any, ...]]) -> Self:
        """Return a row of `select(TABLE)`, perhaps with further columns, as an instance."""
        made = cls()
        vars(made).update(row._mapping)
        return made

    @classmethod
    def __clause_element__(cls) -> Table:
        """Return the table, when SQLAlchemy finds the class in a statement."""
        return cls.__table__


class Attribute(Protocol[T]):
    """A column, as type checkers see it: of the class it is an SQL expression, of a row its value."""

    @overload
    def __get__(self, row: None, table: type[Base]) -> ColumnClause[T]: ...
    @overload
    def __get__(self, row: Base, table: type[Base]) -> T: ...


@overload
def column(kind: type[T], reference: Reference = None, *, nullable: Literal[True]) -> Attribute[T | None]: ...
@overload
def column(kind: type[T], reference: Reference = None, **more: Any) -> Attribute[T]: ...
@overload
def column(kind: JSON, reference: Reference = None, *, nullable: bool = False) -> Attribute[Any]: ...
def column(kind: Any, reference: Reference = None, *, nullable: bool = False, **more: Any) -> Any:
    """A column for values of a Python type, or for `Json`; perhaps a foreign key, with SQLAlchemy's own arguments.

    It is called as the attribute is.
    """
    return Column(_TYPES.get(kind, kind), *([] if reference is None else [reference]), nullable=nullable, **more)


def partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """Return an index over the rows of a table that meet a condition."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


class db_now(ColumnElement[float]):  # noqa: N801 - reads as the SQL function that it is
    """The database's own clock, in seconds since 1970: leases must not depend on the workers' clocks."""

    type = Double()
    inherit_cache = True
    # It has no parts. Unsaid, each statement with it would be compiled every time anew.
    _traverse_internals = []  # noqa: RUF012


@compiles(db_now, "postgresql")
def _now_postgresql(_now: db_now, _compiler: SQLCompiler, **_options: object) -> str:
    # clock_timestamp() moves within a transaction, now() does not.
    return "extract(epoch from clock_timestamp())::double precision"


@compiles(db_now, "sqlite")
def _now_sqlite(_now: db_now, _compiler: SQLCompiler, **_options: object) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"
