"""The database's clock: leases must not depend on the workers' clocks."""

from __future__ import annotations

from sqlalchemy import Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ColumnElement


class db_now(ColumnElement[float]):  # noqa: N801 - reads as the SQL function that it is
    """The database's own clock, in seconds since 1970."""

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
