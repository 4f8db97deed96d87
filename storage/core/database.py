"""Access to SQL: a store's engine, its transactions with bounded retry, and its errors.

Reads and writes are separate because SQLite needs it: a write begins IMMEDIATE, so that it waits for the write lock
at the start, and never fails half-way when a read lock cannot be upgraded.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, TypeVar
from weakref import WeakSet

import orjson
from sqlalchemy import Engine, Executable, Pool, Row, Select, event
from sqlalchemy import exc as sa_exc
from sqlalchemy.engine import URL, ExceptionContext, make_url

from docmill.storage.core import sqlite
from docmill.storage.core.server import Patience
from docmill.storage.core.specs import StoredKind
from docmill.storage.core.sqlite import BUSY_TIMEOUT_S
from docmill.storage.core.transaction import Transaction, Ts
from docmill.storage.errors import (
    DatabaseBusy,
    DatabaseSilent,
    DatabaseUnreachable,
    StorageError,
    ValueRefused,
)

T = TypeVar("T")

RETRIES = 6
_ROUNDS = 8  # of two connections that take turns, to recognize a pooler


def parse_url(text: str) -> URL:
    """Return the URL of a database. Raises ArgumentError or ValueError, whose words may be a piece of a password."""
    url = make_url(text)
    if "@" in (url.host or ""):
        raise ValueError("the rest of a password, not a host")
    return url


def mask_passwords(url: URL) -> str:
    """Return a database's URL for messages, without its passwords."""
    secret = [name for name in url.query if name.lower().endswith("password")]
    return url.difference_update_query(secret).render_as_string(hide_password=True)


class Database:
    """A store. Nothing connects before the first transaction. Threads may share it; after `os.fork()` the child
    connects anew.

    A write that meets a passing fault is tried up to `retries` times. In SQLite each try waits `busy_timeout_s` for
    another writer. `patience` bounds the wait for a silent PostgreSQL. `kinds` are the kinds of tasks by their names;
    a store without them can only be migrated and counted.
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
            self.url = parse_url(url)
            self._type, self.engine = _open_engine(self.url, pool_size, busy_timeout_s, patience)
        except (sa_exc.ArgumentError, sa_exc.NoSuchModuleError, ImportError, ValueError):
            # Not `from error`: what failed to parse may be a piece of a password.
            raise StorageError(
                "DOCMILL_DATABASE_URL is not a database that docmill knows; "
                "use sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME (an @ in a password is written %40)"
            ) from None
        self._retries = retries
        self._was_reached = False
        self._is_closed = False
        self._of_parents: list[Pool] = []
        _DATABASES.add(self)
        event.listen(self.engine, "connect", self._reached)
        event.listen(self.engine, "handle_error", self._refused)

    def __str__(self) -> str:
        return mask_passwords(self.url)

    @property
    def server(self) -> str | None:
        """The name of the server's program, such as PostgreSQL; None for a file of this machine."""
        return self._type.server

    @property
    def file(self) -> Path | None:
        """The path of a SQLite file; None for a server, and for a file that is named by a URI."""
        name = self.url.database or ""
        return Path(name) if self.server is None and not name.startswith("file:") else None

    def _reached(self, *_: object) -> None:
        self._was_reached = True

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """Open a transaction that sees one state of the store and writes nothing."""
        with self._transaction(docmill_write=False) as transaction:
            yield transaction

    def write(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a write transaction and return its value; on a passing fault run it again, so it must
        survive happening twice.

        A database that was reached before and is gone is a passing fault, since it may be restarting. A silent
        database is not: the transaction has waited for it. Raises DatabaseBusy or DatabaseUnreachable if the fault
        outlasts the retries.

        A Ctrl-C waits for the end of the transaction; a second Ctrl-C does not.
        """
        for attempt in range(1, self._retries + 1):
            try:
                with Uninterrupted(), self._transaction(docmill_write=True) as transaction:
                    return work(transaction)
            except (DatabaseBusy, DatabaseUnreachable) as error:
                restarts = self._was_reached and self.server is not None and not isinstance(error, DatabaseSilent)
                passing = isinstance(error, DatabaseBusy) or restarts
                if attempt == self._retries or not passing:
                    raise
            time.sleep(min(4.0, 0.05 * 2**attempt) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        raise AssertionError("unreachable")

    def rows(self, query: Select[*Ts], parameters: Mapping[str, Any] | None = None) -> Sequence[Row[*Ts]]:
        """Return the rows of a query."""
        with self.read() as transaction:
            return transaction.execute(query, parameters).all()

    def row(self, query: Select[*Ts], parameters: Mapping[str, Any] | None = None) -> Row[*Ts] | None:
        """Return the only row of a query; None if there is none."""
        with self.read() as transaction:
            return transaction.execute(query, parameters).one_or_none()

    def values(self, query: Select[T, *tuple[Any, ...]]) -> Sequence[T]:
        """Return the values of a query for one column."""
        with self.read() as transaction:
            return transaction.scalars(query).all()

    def value(self, query: Select[T, *tuple[Any, ...]]) -> T | None:
        """Return the first value of a query; None if there is no row."""
        with self.read() as transaction:
            value: T | None = transaction.scalar(query)
            return value

    def execute(self, statement: Executable) -> int:
        """Execute a statement in a write transaction. Return the number of rows that it changed."""
        return self.write(lambda transaction: transaction.execute(statement).rowcount)

    @contextmanager
    def unhurried(self) -> Iterator[Transaction]:
        """Open a transaction, READ COMMITTED, that may be idle for any time. PostgreSQL only."""
        with self._transaction(docmill_write=True) as transaction:
            transaction.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            yield transaction

    @contextmanager
    def outside_transactions(self) -> Iterator[tuple[Transaction, bool]]:
        """Open a connection that commits each statement by itself. PostgreSQL only.

        Also yield True if a pooler stands before the server, since it may give each statement another session.
        """
        from docmill.storage.core import postgresql

        with self._errors(), self.engine.connect().execution_options(docmill_autocommit=True) as connection:
            connection.detach()  # it is closed and not used again, since its settings stay
            yield self._type(connection, self.kind_of), postgresql.is_pooled(connection)

    @contextmanager
    def _transaction(self, *, docmill_write: bool) -> Iterator[Transaction]:
        with self._errors(), self.engine.connect() as connection:
            connection.execution_options(docmill_write=docmill_write)
            with connection.begin():
                yield self._type(connection, self.kind_of)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise errors of the driver and of the pool as our own."""
        if self._is_closed:
            raise StorageError(f"the connection to the database {self} is closed; open another")
        try:
            yield
        except sa_exc.TimeoutError as error:
            raise DatabaseBusy(f"every connection to the database {self} is taken") from error
        except sa_exc.DBAPIError as error:
            raise self.wrap(error) from error

    def _refused(self, context: ExceptionContext) -> ValueRefused | None:
        """Return our error for a value that the driver cannot send; None for other errors of a statement."""
        error = context.original_exception
        if isinstance(error, UnicodeEncodeError | OverflowError):
            return ValueRefused(f"the database {self} cannot store or look up a value: {error}")
        return None

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

    def kind_of(self, name: str) -> StoredKind:
        """Return the kind of task of this name. Raises StorageError."""
        if name not in self.kinds:
            known = ", ".join(sorted(self.kinds)) or "none"
            raise StorageError(
                f"this docmill has no task kind {name}, which the store {self} names; it has: {known}. "
                "Install the release that has it."
            )
        return self.kinds[name]

    def close(self) -> None:
        """Close the connections. Reads and writes raise StorageError from then on."""
        self._is_closed = True
        self.engine.dispose()

    def leave_connections_to_parent(self) -> None:
        """Give a forked process connections of its own.

        The parent's are kept, since to close them would end transactions of the parent.
        """
        self._of_parents.append(self.engine.pool)
        self.engine.dispose(close=False)

    def wrap(self, error: sa_exc.DBAPIError) -> StorageError:
        """Return a driver's error as one of docmill's."""
        return self._type.wrap(error, str(self))


class Uninterrupted:
    """A block in which a stop or a Ctrl-C of the main thread waits for the end of the block; a second one does not.

    A KeyboardInterrupt inside SQLAlchemy may leave the transaction open, and with it SQLite's only write lock, for as
    long as its traceback is kept: all other processes would wait.
    """

    def __init__(self) -> None:
        self._held: list[int] | None = None  # outside of the block, where no signal waits
        on_main_thread = threading.current_thread() is threading.main_thread()
        stops = (signal.SIGINT, signal.SIGTERM) if on_main_thread else ()
        self._handlers = {stop: handler for stop in stops if callable(handler := signal.getsignal(stop))}

    def __enter__(self) -> None:
        for stop in self._handlers:
            signal.signal(stop, self._hold)
        self._held = []

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self._held == []:
            self._held.append(number)
        else:  # also if this stayed the handler, since an interrupt came as the block began or ended
            self._handlers[signal.Signals(number)](number, frame)

    def __exit__(self, *_: object) -> None:
        held, self._held = self._held, None
        for stop, handler in self._handlers.items():
            signal.signal(stop, handler)
        for number in held or ():
            self._handlers[signal.Signals(number)](number, None)


def describe_pooling(database: Database) -> str | None:
    """Return how a pooler, such as PgBouncer, hands the server's sessions to its clients; None without a pooler.

    Two connections take turns, and compare the server processes that they get.
    """
    if database.server is None:
        return None
    with (
        database.outside_transactions() as (first_session, is_pooled),
        database.outside_transactions() as (second_session, _),
    ):
        if not is_pooled:
            return None
        seen = [(_process(first_session), _process(second_session)) for _ in range(_ROUNDS)]
    first, second = ({*processes} for processes in zip(*seen, strict=True))
    if len(first) > 1 or len(second) > 1 or first & second:
        return "each transaction may get another session of the server"
    return "a connection keeps its session of the server"


def _process(transaction: Transaction) -> int:
    pid: int = transaction.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    return pid


_DATABASES: WeakSet[Database] = WeakSet()


def _after_fork() -> None:
    for database in list(_DATABASES):
        database.leave_connections_to_parent()


os.register_at_fork(after_in_child=_after_fork)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _open_engine(
    url: URL, pool_size: int, busy_timeout_s: float, patience: Patience
) -> tuple[type[Transaction], Engine]:
    """Return the class of the database's transactions, and its engine; nothing connects yet."""
    common: dict[str, Any] = {
        "pool_size": pool_size,
        "max_overflow": pool_size,
        "hide_parameters": True,  # an error's text must not carry a document's
        "json_serializer": _json,
        "json_deserializer": orjson.loads,
    }
    if url.get_backend_name() == "sqlite":
        return sqlite.SqliteTransaction, sqlite.engine_for(url, busy_timeout_s, **common)
    from docmill.storage.core import postgresql  # loads the driver

    return postgresql.PostgresqlTransaction, postgresql.engine_for(url, patience, **common)
