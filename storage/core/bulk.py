"""Insert many rows in one statement, given column by column.

On PostgreSQL this is COPY, or an INSERT of arrays where a row may exist already, which COPY cannot handle. A
temporary table would need a privilege that workers do not have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import orjson
from sqlalchemy import JSON, ColumnElement, Connection, CursorResult, Table
from sqlalchemy import exc as sa_exc
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

from storage.core.database import Database

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]

Columns = Mapping[str, Sequence[Any]]

SQLITE_ROWS = 500  # of 20 columns at the most: SQLite takes 32,766 values in a statement


def columns_of(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """The rows, which all name the same columns, as columns."""
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def load(database: Database, connection: Connection, table: Any, columns: Columns) -> None:
    """Insert many rows. JSON is given as its text; every column that may not be NULL is given."""
    if not any(columns.values()):
        return
    target: Table = table.__table__
    if database.is_sqlite:
        if "id" in target.c and "id" not in columns:
            columns = {"id": database.next_ids(connection, table, len(next(iter(columns.values())))), **columns}
        _load_sqlite(connection, target, columns)
        return
    if target.foreign_keys:
        database.check_keys_by_kept_plans(connection)
    # In binary, which spares both sides the escapes of texts and hashes.
    types, written = zip(*(_in_binary(target.c[name].type, values) for name, values in columns.items()), strict=True)
    cursor: Any = connection.connection.cursor()
    statement = f"COPY {target.name} ({', '.join(columns)}) FROM STDIN (FORMAT BINARY)"
    with _postgres_errors(statement), cursor.copy(statement) as copy:
        copy.set_types(types)
        for row in zip(*written, strict=True):
            copy.write_row(row)
    cursor.close()


def _load_sqlite(connection: Connection, target: Table, columns: Columns) -> None:
    """Said to the driver: SQLAlchemy spends more on the values than SQLite on the rows.

    Many rows a statement, since the driver lets other threads run while a statement does, and takes turns with them
    after each: the thread that reads on works meanwhile, and is not in the way after every row.
    """
    rows = list(zip(*columns.values(), strict=True))
    insert_into = f"INSERT INTO {target.name} ({', '.join(columns)}) VALUES"
    row = f"({', '.join('?' * len(columns))})"
    whole = len(rows) - len(rows) % SQLITE_ROWS
    statement = f"{insert_into} {', '.join([row] * SQLITE_ROWS)}"
    for first in range(0, whole, SQLITE_ROWS):
        connection.exec_driver_sql(statement, tuple(chain.from_iterable(rows[first : first + SQLITE_ROWS])))
    if rows[whole:]:
        connection.exec_driver_sql(f"{insert_into} {row}", rows[whole:])


def _in_binary(kind: TypeEngine[Any], values: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """A column as COPY sends it: its type for the driver, and its values. Of JSON it is a version and the text."""
    if isinstance(kind, JSON):
        return "bytea", [None if value is None else b"\1" + value.encode() for value in values]
    return kind.compile(_DIALECT).lower(), values


def try_load(database: Database, connection: Connection, table: Any, columns: Columns) -> bool:
    """`load`, unless another writer stored one of the rows since we looked: False then, and nothing is loaded."""
    if database.is_sqlite:
        load(database, connection, table, columns)
        return True
    try:
        with connection.begin_nested():
            load(database, connection, table, columns)
    except sa_exc.IntegrityError:
        return False
    return True


def insert(
    connection: Connection,
    table: Any,
    columns: Columns,
    conflict: str,
    more: Mapping[str, ColumnElement[Any]] | None = None,
) -> CursorResult[Any]:
    """Insert the rows in their order on PostgreSQL; `more` has SQL expressions for further columns.

    JSON is given as its values. Columns that are NULL in every row are left to the table, which has no defaults.
    Arrays go in binary: as text a vector is written and parsed digit by digit, which takes ten times as long.
    """
    target: Table = table.__table__
    columns = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    more = more or {}
    names, new, arrays = [*columns, *more], list[str](), list[str]()
    values: list[Sequence[Any]] = []
    for name, given in columns.items():
        kind = target.c[name].type
        if isinstance(kind, JSON):
            new.append(f"new.{name}::jsonb")
            arrays.append("%b::text[]")
            values.append([None if value is None else orjson.dumps(value).decode() for value in given])
        else:
            new.append(f"new.{name}")
            arrays.append(f"%b::{kind.compile(_DIALECT)}[]")
            values.append(given)
    new += [str(expression.compile(dialect=_DIALECT)) for expression in more.values()]
    statement = (
        f"INSERT INTO {target.name} ({', '.join(names)}) SELECT {', '.join(new)} "  # noqa: S608
        f"FROM unnest({', '.join(arrays)}) AS new ({', '.join(columns)}) {conflict}"
    )
    return connection.exec_driver_sql(statement, tuple(values))


def copied(connection: Connection, into: str, rows: bytes) -> None:
    """COPY rows that are in PostgreSQL's binary form already; `into` is the statement up to its FROM."""
    statement = f"{into} FROM STDIN (FORMAT BINARY)"
    cursor: Any = connection.connection.cursor()
    with _postgres_errors(statement), cursor.copy(statement) as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8) + rows + b"\xff\xff")
    cursor.close()


@contextmanager
def _postgres_errors(statement: str) -> Iterator[None]:
    """Raise the errors of a raw cursor as SQLAlchemy raises them."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        raise sa_exc.DBAPIError.instance(statement, None, error, psycopg.Error) from error
