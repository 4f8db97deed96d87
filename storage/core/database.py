"""The access to SQL: engines with the right pragmas, transactions with bounded retry, the database's clock.

Reads and writes are separate because SQLite needs it: a write begins IMMEDIATE, so that it waits for the write lock
at the start, and never fails half-way when a read lock cannot be upgraded.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeVar

import orjson
from sqlalchemy import (
    Connection,
    Double,
    Engine,
    LargeBinary,
    Select,
    Table,
    event,
    func,
    literal,
    select,
    true,
)
from sqlalchemy import exc as sa_exc
from sqlalchemy.dialects import postgresql as postgresql_dialect
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ColumnElement

from storage.core import driver_errors, id_allocation, sqlite
from storage.core.kinds import StoredKind
from storage.core.sqlite import BUSY_TIMEOUT_S
from storage.core.time_limits import Patience
from storage.errors import (
    DatabaseBusy,
    DatabaseSilent,
    DatabaseUnreachable,
    DatabaseUrlUnknown,
    StorageError,
    UnknownKind,
)

T = TypeVar("T")

RETRIES = 6


class db_now(ColumnElement[float]):  # noqa: N801 - reads as the SQL function that it is
    """The database's own clock, in seconds since 1970: leases must not depend on the workers' clocks."""

    type = Double()
    inherit_cache = True
    # It has no parts. Unsaid, each statement with it would be compiled every time anew.
    _traverse_internals = []  # noqa: RUF012


@compiles(db_now, "postgresql")
def _now_postgresql(*_: Any, **__: Any) -> str:
    # clock_timestamp() moves within a transaction, now() does not.
    return "extract(epoch from clock_timestamp())::double precision"


@compiles(db_now, "sqlite")
def _now_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


def shown(url: URL) -> str:
    """A database's URL for messages: without its passwords."""
    secret = [name for name in url.query if name.lower().endswith("password")]
    return url.difference_update_query(secret).render_as_string(hide_password=True)


class Database:
    """A store's engine. Cheap to make: nothing connects before the first transaction. Safe to share by threads.

    A write that meets a passing fault is tried `retries` times in all; in SQLite each of them waits
    `busy_timeout_s` for another writer. `patience` is for a PostgreSQL that goes silent. `kinds` are the kinds of
    tasks by their names; without them it can only be migrated and counted.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 8,
        retries: int = RETRIES,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        patience: Patience = Patience(),  # noqa: B008 - frozen
        kinds: Mapping[str, StoredKind] = MappingProxyType({}),
    ) -> None:
        self.kinds = kinds
        try:
            self.url: URL = make_url(url)
            if "@" in (self.url.host or ""):
                raise ValueError("the rest of a password, not a host")
            self.engine: Engine = _engine(self.url, pool_size, busy_timeout_s, patience)
        except (sa_exc.ArgumentError, sa_exc.NoSuchModuleError, ImportError, ValueError):
            # Not `from error`: what failed to parse may be a piece of a password.
            raise DatabaseUrlUnknown(
                "DOCMILL_DATABASE_URL is not a database that docmill knows; "
                "use sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME (an @ in a password is written %40)"
            ) from None
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self._retries = retries
        self._was_reached = False
        event.listen(self.engine, "connect", self._reached)

    def __str__(self) -> str:
        return shown(self.url)

    def _reached(self, *_: object) -> None:
        self._was_reached = True

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the store and writes nothing."""
        with self._transaction(docmill_write=False) as connection:
            yield connection

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a write transaction and return its value; on a passing fault run it again, so it must
        survive happening twice.

        A database that was reached before and is gone is a passing fault: it may be restarting. A silent one is not:
        it was waited for. Raises DatabaseBusy, or DatabaseUnreachable, when the fault outlasts the retries.
        """
        for attempt in range(1, self._retries + 1):
            try:
                with self._transaction(docmill_write=True) as connection:
                    return work(connection)
            except (DatabaseBusy, DatabaseUnreachable) as error:
                restarts = self._was_reached and not self.is_sqlite and not isinstance(error, DatabaseSilent)
                passing = isinstance(error, DatabaseBusy) or restarts
                if attempt == self._retries or not passing:
                    raise
            time.sleep(min(4.0, 0.05 * 2**attempt) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        raise AssertionError("unreachable")

    @contextmanager
    def unhurried(self) -> Iterator[Connection]:
        """A transaction, READ COMMITTED, that may be idle for as long as it takes. PostgreSQL only."""
        with self._transaction(docmill_write=True) as connection:
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            yield connection

    @contextmanager
    def outside_transactions(self) -> Iterator[tuple[Connection, bool]]:
        """A connection whose statements are committed one by one, and True where a pooler stands before the server.

        A pooler may give each statement another session. PostgreSQL only.
        """
        from storage.core import postgresql

        with self._errors(), self.engine.connect().execution_options(docmill_autocommit=True) as connection:
            connection.detach()  # it is closed, and not used again, with what is set in it
            yield connection, postgresql.is_pooled(connection)

    @contextmanager
    def _transaction(self, *, docmill_write: bool) -> Iterator[Connection]:
        with self._errors(), self.engine.connect() as connection:
            connection.execution_options(docmill_write=docmill_write)
            with connection.begin():
                yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """The driver's errors and the pool's, as ours."""
        try:
            yield
        except sa_exc.TimeoutError as error:
            raise DatabaseBusy(f"every connection to the database {self} is taken") from error
        except sa_exc.DBAPIError as error:
            raise self.wrap(error) from error
        except OSError as error:  # the folder of a SQLite file
            raise DatabaseUnreachable(f"cannot use the database {self}: {error.strerror}") from error

    @contextmanager
    def idle(self) -> Iterator[Any]:
        """Yield a driver's cursor outside of any transaction, for statements that cannot run in one."""
        try:
            connection = self.engine.raw_connection()
            try:
                yield connection.cursor()
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise self.wrap(sa_exc.DBAPIError(None, None, error)) from error

    def insert(self, table: Any) -> Any:
        """An INSERT of the dialect, which knows `on_conflict_do_nothing` and `on_conflict_do_update`."""
        target: Table = getattr(table, "__table__", table)
        return (sqlite_dialect if self.is_sqlite else postgresql_dialect).insert(target)

    def probe(
        self,
        connection: Connection,
        query: Select[*tuple[Any, ...]],
        column: ColumnElement[Any],
        values: Collection[Any],
    ) -> Sequence[Any]:
        """The rows of `query` whose `column` is one of `values`, by one look into an index for each value.

        PostgreSQL knows nothing yet of a table that is being filled at a stroke, and would read all of it for an
        `IN (…)`. OFFSET 0 keeps its planner from turning the look-ups into one join.
        """
        if not values:
            return []
        if self.is_sqlite and isinstance(column.type, LargeBinary):  # which JSON cannot hold
            return connection.execute(query.where(column.in_(values))).all()
        if self.is_sqlite:  # one parameter: thousands of them cost more than the look-ups
            wanted = func.json_each(_json(list(values))).table_valued("value")
            return connection.execute(query.where(column.in_(select(wanted.c.value)))).all()
        array = literal(list(values), postgresql_dialect.ARRAY(column.type))
        wanted = func.unnest(array).table_valued("value").render_derived(name="wanted")
        found = query.where(column == wanted.c.value).offset(0).lateral("found")
        return connection.execute(select(found).select_from(wanted).join(found, true())).all()

    def look_up(self, connection: Connection) -> None:
        """Have the rest of this transaction find rows by indexes.

        PostgreSQL takes a job for an average one, and so believes that a table of a million shards, read from its
        start, soon comes to one of any job's.
        """
        if not self.is_sqlite:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")

    def walk(self, connection: Connection) -> None:
        """Have the rest of this transaction read rows in the order of an index that has the one that is asked for.

        PostgreSQL, while it knows nothing of a new table, would sort what is left of it for every page.
        """
        if not self.is_sqlite:
            connection.exec_driver_sql("SET LOCAL enable_sort = off")

    def check_keys_by_kept_plans(self, connection: Connection) -> None:
        """Have PostgreSQL plan the look-up behind a foreign key once for a session and not for every row.

        Each transaction begins by asking for a plan each time (`postgresql.beginning`), which costs more than writing
        the row. Only plans made here are kept, and those read no table from its start, whatever size it had when they
        were made.
        """
        if not self.is_sqlite:
            self.look_up(connection)
            connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")

    def next_ids(self, connection: Connection, table: Any, n: int) -> list[int]:
        """`n` fresh ids, rising. In SQLite they are ours as long as the write transaction lasts."""
        if self.is_sqlite:
            first = id_allocation.first_free(connection, table.__tablename__)
            return list(range(first, first + n))
        # In one row: thousands of them would cost more to fetch than the numbers to make. OFFSET 0 keeps the planner
        # from looking the sequence's name up for each.
        numbers = connection.exec_driver_sql(
            "SELECT string_agg(nextval(ids)::text, ',') FROM generate_series(1, %s), "
            "(SELECT pg_get_serial_sequence(%s, 'id')::regclass AS ids OFFSET 0) AS sequence",
            (n, table.__tablename__),
        ).scalar_one()
        return sorted(map(int, numbers.split(",")))

    def kind_of(self, name: str) -> StoredKind:
        """Return the kind of task of this name. Raises UnknownKind."""
        if name not in self.kinds:
            known = ", ".join(sorted(self.kinds)) or "none"
            raise UnknownKind(
                f"this docmill has no task kind {name}, which the store {self} names; it has: {known}. "
                "Install the release that has it."
            )
        return self.kinds[name]

    def close(self) -> None:
        self.engine.dispose()

    def wrap(self, error: sa_exc.DBAPIError) -> StorageError:
        """Return a driver's error as one of ours (see `storage.core.driver_errors`)."""
        return driver_errors.wrapped(error, str(self))


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _engine(url: URL, pool_size: int, busy_timeout_s: float, patience: Patience) -> Engine:
    common: dict[str, Any] = {
        "pool_size": pool_size,
        "max_overflow": pool_size,
        "hide_parameters": True,  # an error's text must not carry a document's
        "json_serializer": _json,
        "json_deserializer": orjson.loads,
    }
    if url.get_backend_name() == "sqlite":
        return sqlite.engine_for(url, busy_timeout_s, **common)
    from storage.core import postgresql  # loads the driver

    return postgresql.engine_for(url, patience, **common)
