"""The one door to SQL: engines with the right pragmas, transactions with bounded retry, the database's clock.

Reads and writes are told apart because SQLite must be: a write begins IMMEDIATE, so that it waits for its turn at
the start and never fails half-way when a read lock cannot be upgraded.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Double, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ColumnElement

from storage.errors import (
    DatabaseBusy,
    DatabaseReadOnly,
    DatabaseUnreachable,
    SchemaOutOfDate,
    StorageError,
)

T = TypeVar("T")

BUSY_TIMEOUT_S = 10.0
RETRIES = 6
IN_LIST = 1_000  # values in one IN (…): under every database's limit of parameters


class db_now(ColumnElement[float]):  # noqa: N801 - reads as the SQL function that it is
    """The database's own clock, in seconds since 1970: leases must not depend on the workers' clocks."""

    type = Double()
    inherit_cache = True


@compiles(db_now, "postgresql")
def _now_postgresql(*_: Any, **__: Any) -> str:
    # clock_timestamp() moves within a transaction, now() does not.
    return "extract(epoch from clock_timestamp())::double precision"


@compiles(db_now, "sqlite")
def _now_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


class Database:
    """A store's engine. Cheap to make: nothing connects before the first transaction. Safe to share by threads."""

    def __init__(self, url: str, *, pool_size: int = 8) -> None:
        try:
            self.url: URL = make_url(url)
            self.engine: Engine = _engine(self.url, pool_size)
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise DatabaseUnreachable(
                "DOCMILL_DATABASE_URL is not a database that docmill knows; "
                "use sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME"
            ) from error
        self.is_sqlite = self.engine.dialect.name == "sqlite"

    def __str__(self) -> str:
        return self.url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the store and writes nothing."""
        try:
            with self.engine.connect() as connection, connection.begin():
                yield connection
        except DBAPIError as error:
            raise self.wrap(error) from error

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a write transaction and return its value; on a passing fault run it again, so it must
        survive happening twice.

        Raises DatabaseBusy when the fault outlasts the retries.
        """
        for attempt in range(RETRIES):
            try:
                with (
                    self.engine.connect().execution_options(docmill_write=True) as connection,
                    connection.begin(),
                ):
                    return work(connection)
            except DBAPIError as error:
                wrapped = self.wrap(error)
                if attempt == RETRIES - 1 or not isinstance(wrapped, DatabaseBusy | DatabaseUnreachable):
                    raise wrapped from error
                if isinstance(wrapped, DatabaseUnreachable) and not error.connection_invalidated:
                    raise wrapped from error
            time.sleep(min(4.0, 0.1 * 2**attempt) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        raise AssertionError("unreachable")

    def insert(self, table: Any) -> Any:
        """An INSERT of the dialect, which knows `on_conflict_do_nothing` and `on_conflict_do_update`."""
        target: Table = getattr(table, "__table__", table)
        return sqlite.insert(target) if self.is_sqlite else postgresql.insert(target)

    def close(self) -> None:
        self.engine.dispose()

    def wrap(self, error: DBAPIError) -> StorageError:
        """A driver's error as one of ours, told apart by codes (SQLSTATE, SQLite's result codes), not by words."""
        original = error.orig
        if isinstance(original, sqlite3.Error):
            return self._wrap_sqlite(original)
        state = getattr(original, "sqlstate", None) or ""
        if state in {"42P01", "42703"}:
            return SchemaOutOfDate()
        if state == "25006":
            return DatabaseReadOnly(f"the database {self} takes no writes")
        if state[:2] in {"40", "53", "57", "55"}:
            return DatabaseBusy(f"the database {self} is busy: {_first_line(original)}")
        if isinstance(error, OperationalError):
            return DatabaseUnreachable(f"cannot reach the database {self}: {_first_line(original)}")
        raise error

    def _wrap_sqlite(self, error: sqlite3.Error) -> StorageError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            return DatabaseBusy(f"the database {self} is locked by another writer")
        if code == sqlite3.SQLITE_FULL:
            return DatabaseBusy(f"the disk of the database {self} is full")
        if code == sqlite3.SQLITE_READONLY:
            return DatabaseReadOnly(f"the database {self} takes no writes")
        if code == sqlite3.SQLITE_ERROR and "no such" in str(error):
            return SchemaOutOfDate()
        return DatabaseUnreachable(f"cannot use the database {self}: {error}")


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]


def _engine(url: URL, pool_size: int) -> Engine:
    if url.get_backend_name() == "sqlite":
        if url.database and url.database != ":memory:":
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(
            url, pool_size=pool_size, max_overflow=pool_size, connect_args={"timeout": BUSY_TIMEOUT_S}
        )
        event.listen(engine, "connect", _sqlite_connect)
        event.listen(engine, "begin", _sqlite_begin)
        return engine
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    return create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        connect_args={"connect_timeout": 10, "application_name": "docmill"},
    )


def _sqlite_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves; the driver would say it too late
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # with WAL, NORMAL may lose what was committed before a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA cache_size=-65536")
    cursor.close()


def _sqlite_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("docmill_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
