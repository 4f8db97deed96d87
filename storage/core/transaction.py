"""A transaction: SQLAlchemy's connection, and the statements that differ from database to database.

`storage.core.sqlite` and `storage.core.postgresql` implement them. Another database is another module like these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, TypeVar, TypeVarTuple

from sqlalchemy import Connection, FromClause, Row, Select, select
from sqlalchemy import exc as sa_exc
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.expression import ColumnElement

from docmill.storage.core.schema import AnyRow, Base, db_now
from docmill.storage.core.specs import StoredKind
from docmill.storage.errors import StorageError, UnexpectedDatabaseError

K = TypeVar("K", bytes, str, int)
V = TypeVar("V")
Ts = TypeVarTuple("Ts")

Columns: TypeAlias = Mapping[str, Sequence[Any]]  # the values of many rows, column by column
# An option of a query's execution: a server sends the values in binary, since many are bytes.
IN_BINARY = "docmill_in_binary"
# The numbers of advisory locks. Two jobs that share one wait for each other.
_CONTENTS, _COUNTS, _WALKS, _JOBS = 0x646F636D696C6C, 0x636F756E7473, 0x77616C6B, 2**31
Insert: TypeAlias = sqlite.Insert | postgresql.Insert


def columns_of(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Return the rows, which all name the same columns, as columns."""
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


class Transaction(ABC):
    """A transaction of a database. `Database.read` gives it, and `Database.write` passes it to its work.

    It executes statements as SQLAlchemy's `connection` does, and `kind_of` returns the kind of task of a name.
    """

    server: ClassVar[str | None] = None  # the name of the server, which may restart; None for a file of this machine

    def __init__(self, connection: Connection, kind_of: Callable[[str], StoredKind]) -> None:
        self.connection = connection
        self.kind_of = kind_of
        self.execute = connection.execute
        self.scalar = connection.scalar
        self.scalars = connection.scalars
        self.exec_driver_sql = connection.exec_driver_sql
        self.begin_nested = connection.begin_nested

    @staticmethod
    @abstractmethod
    def wrap(outer: sa_exc.DBAPIError, database: str) -> StorageError:
        """Return a driver's error as one of docmill's, by its code and not by its text.

        `database` is its URL for messages. An error with another code becomes an UnexpectedDatabaseError.
        """

    def read_clock(self) -> float:
        """Return the time by the database's clock, in seconds since 1970."""
        return float(self.execute(select(db_now())).scalar_one())

    @abstractmethod
    def has_table(self, name: str) -> bool:
        """Return True if there is a table of this name."""

    # Locks are held until the transaction ends. A database with one writer at a time needs none.
    #
    # Advisory locks keep garbage collection from racing with new references, and a job's two planners apart. Many
    # transactions may refer to contents at once, or one may collect contents. Without the lock collection could drop
    # an outcome that a job has just counted as done. For a step with a prompt for each document, one planner walks
    # the documents and another follows outputs to documents. Each looks for the rows of the other, and must not
    # miss any.

    def advisory_lock(self, *key: int, shared: bool = False) -> None:
        """Lock a number of 64 bits, or two of 32 bits."""

    def keep_contents(self) -> None:
        """Keep contents from being collected. Call it before looking for contents."""
        self.advisory_lock(_CONTENTS, shared=True)

    def stop_references(self) -> None:
        """Keep others from referring to contents. Call it before locking any row."""
        self.advisory_lock(_CONTENTS)

    def stop_following(self, job_id: int) -> None:
        """Keep others from following a job's outputs. Call it before reading documents."""
        self.advisory_lock(_WALKS, job_id % _JOBS)

    def stop_walking(self, job_id: int) -> None:
        """Keep others from walking a job's documents. Call it before looking for walked ones."""
        self.advisory_lock(_WALKS, job_id % _JOBS, shared=True)

    def lock_counts(self) -> None:
        """Keep others from correcting kept counts. Call it before reading them."""
        self.advisory_lock(_COUNTS)

    def lock_row(self, table: type[Base], row_id: int) -> None:
        """Lock a row, if it is there."""

    def for_update(
        self, query: Select[*Ts], *, of: type[Base] | None = None, skip_locked: bool = False
    ) -> Select[*Ts]:
        """Return the query with a lock on its rows; if it joins several tables, on those of the table `of`."""
        return query

    def in_lock_order(self, keys: Sequence[K]) -> list[K]:
        """Return the keys in the order in which to insert them, so that writers never wait in a circle."""
        return list(keys)

    # Plans of the statements of the rest of this transaction.

    def prefer_indexes(self) -> None:
        """Have the rest of this transaction find rows by indexes."""

    def prefer_index_order(self) -> None:
        """Have the rest of this transaction read ordered rows from an index, without sorting them."""

    def keep_key_plans(self) -> None:
        """Have the look-up behind a foreign key planned once for a session and not for every row."""

    # Rows by many keys, and many rows.

    @abstractmethod
    def probe(self, query: Select[*Ts], column: ColumnElement[V], values: Collection[V]) -> Sequence[Row[*Ts]]:
        """Return the rows of `query` whose `column` is one of `values`, by one index look-up for each value."""

    @abstractmethod
    def content_ids(self, hashes: Sequence[bytes]) -> dict[bytes, int]:
        """Return the ids of stored contents by their hashes."""

    @staticmethod
    @abstractmethod
    def insert(table: type[Base]) -> Insert:
        """Return an INSERT that knows `on_conflict_do_nothing` and `on_conflict_do_update`."""

    @abstractmethod
    def load(self, table: type[Base], columns: Columns) -> None:
        """Insert many rows. JSON is given as its text; every column that may not be NULL is given."""

    def try_load(self, table: type[Base], columns: Columns) -> bool:
        """Insert rows as `load` does. If another writer stored one of them meanwhile, insert none, return False."""
        self.load(table, columns)
        return True

    @abstractmethod
    def insert_missing(self, table: type[Base], columns: Columns, *returned: ColumnElement[Any]) -> Sequence[AnyRow]:
        """Insert the rows that are not there yet, by any unique key. Return these columns of the inserted rows."""

    @abstractmethod
    def upsert_outcomes(self, rows: Sequence[Mapping[str, Any]], *, redo: bool) -> int:
        """Insert rows of outcomes under one spec whose contents are there. Return how many were written.

        A row replaces a failed one if it is done itself; with `redo` it replaces any failed one.
        """

    @abstractmethod
    def link_outputs(self, rows: Sequence[tuple[int, int, int]]) -> None:
        """Set the output's content of each outcome, given as (spec id, content id, id of the output's content)."""

    # Ids are never used again, not even after the last row of a table was deleted, because ids outlive their rows:
    # shards name contents, workers name shards, jobs name the last document that they cover.

    @abstractmethod
    def next_ids(self, table: type[Base], n: int) -> list[int]:
        """Return `n` new ids, rising, for rows of this write transaction."""

    def own_id(self, table: type[Base]) -> dict[str, int]:
        """Return {"id": …} for a new row, or {} where the database numbers it."""
        return {}

    def keep_last_ids(self, *tables: type[Base]) -> None:
        """Note the last ids of these tables, before rows of theirs are deleted."""

    @abstractmethod
    def elements(self, data: ColumnElement[Any], key: str) -> FromClause:
        """Return the elements of the array under a key of a JSON column, as rows `item` with the column `value`."""


def wrap_unexpected(error: BaseException | None, database: str, code: str) -> StorageError:
    """Return the error for a driver's error whose code docmill does not know."""
    return UnexpectedDatabaseError(
        f"the database {database} answers with an error that docmill does not know: "
        f"{type(error).__name__} ({code}): {first_line(error)}"
    )


def first_line(error: object) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
