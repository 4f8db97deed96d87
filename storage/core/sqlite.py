"""SQLite: engines with the right pragmas, and transactions."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import (
    Connection,
    Engine,
    FromClause,
    LargeBinary,
    Row,
    Select,
    and_,
    bindparam,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy import exc as sa_exc
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.expression import ColumnElement

from docmill.storage.core.private_files import make_file, make_folder
from docmill.storage.core.schema import OUTCOME_VALUES, AnyRow, Base, Content, OutcomeRow, db_now
from docmill.storage.core.transaction import Columns, Transaction, Ts, V, wrap_unexpected
from docmill.storage.errors import (
    DatabaseBusy,
    DatabaseReadOnly,
    DatabaseUnreachable,
    SchemaOutOfDate,
    StorageError,
    UnexpectedDatabaseError,
    ValueRefused,
)

BUSY_TIMEOUT_S = 10.0
_UNREACHABLE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_PERM}
ROWS = 500  # in a statement, of 20 columns at the most: SQLite takes 32,766 values in one
_MOST_HASHES = 30_000


def engine_for(url: URL, busy_timeout_s: float, **options: Any) -> Engine:
    """Return the engine of a file; nothing connects yet. Raises ValueError for a store in memory."""
    if not url.database or url.database == ":memory:":
        raise ValueError("a store in memory cannot be shared by threads and processes")
    engine = create_engine(url, connect_args={"timeout": busy_timeout_s}, **options)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    if not url.database.startswith("file:"):
        file = _File(Path(url.database))
        event.listen(engine, "do_connect", file.make)
        event.listen(engine, "connect", file.note)
        event.listen(engine, "checkout", file.check)
    return engine


class _File:
    """The file of an engine, made once. A connection to a file that was removed would write for nobody."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._was_made = False

    def make(self, *_: object) -> None:
        with self._errors():
            if not self._was_made:
                make_folder(self._path.parent)
                make_file(self._path)  # SQLite gives its journals the same rights
                self._was_made = True
            self._path.stat()

    def note(self, _connection: object, record: ConnectionPoolEntry) -> None:
        with self._errors():
            record.info["inode"] = self._path.stat().st_ino

    def check(self, _connection: object, record: ConnectionPoolEntry, _proxy: object) -> None:
        with self._errors():
            if self._path.stat().st_ino != record.info["inode"]:
                raise sa_exc.DisconnectionError  # the pool opens the file that took its place

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DatabaseUnreachable(f"cannot use the database sqlite:///{self._path}: {error.strerror}") from error


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves; the driver would say it too late
    cursor = connection.cursor()
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous=FULL")  # with WAL, NORMAL may lose the last commits before a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA secure_delete=ON")  # deleted and replaced values leave the file, too
    cursor.execute("PRAGMA cache_size=-65536")
    cursor.close()


def _use_wal(cursor: sqlite3.Cursor) -> None:
    """Change a new file to write-ahead logging. SQLite's busy timeout does not hold for that, so the wait is ours."""
    give_up = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
        time.sleep(0.02)


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("docmill_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


_WANTED = select(func.json_each(bindparam("wanted")).table_valued("value").c.value)
_STORED = select(Content.id).where(Content.id.in_(bindparam("ids")))


@cache
def _put_outcomes(*, redo: bool) -> sqlite.Insert:
    statement = sqlite.insert(OutcomeRow.__table__).values(created_at=db_now())
    new = statement.excluded
    better = OutcomeRow.status == "failed" if redo else and_(OutcomeRow.status == "failed", new.status == "done")
    return statement.on_conflict_do_update(
        index_elements=["spec_id", "content_id"], set_={name: new[name] for name in OUTCOME_VALUES}, where=better
    )


class SqliteTransaction(Transaction):
    """A transaction of a SQLite file. A write transaction is the only one, so that it needs no locks."""

    @staticmethod
    def wrap(outer: sa_exc.DBAPIError, database: str) -> StorageError:
        error = outer.orig
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            return DatabaseBusy(f"the database {database} is locked by another writer")
        if code == sqlite3.SQLITE_FULL:
            return DatabaseBusy(f"the disk of the database {database} is full")
        if code == sqlite3.SQLITE_READONLY:
            return DatabaseReadOnly(f"the database {database} takes no writes")
        if code == sqlite3.SQLITE_ERROR and "no such" in str(error):  # a table or column; SQLite has no code for it
            return SchemaOutOfDate()
        if code == sqlite3.SQLITE_CANTOPEN:
            hint = "its folder has to be there, and this user to be able to write in it, even to read"
            return DatabaseUnreachable(f"cannot use the database {database}: {error}; {hint}")
        if code in _UNREACHABLE:
            return DatabaseUnreachable(f"cannot use the database {database}: {error}")
        if isinstance(error, sqlite3.DataError):  # a text or blob past SQLite's limit
            return ValueRefused(f"the database {database} cannot store a value: {error}")
        return wrap_unexpected(error, database, getattr(error, "sqlite_errorname", "no code"))

    def has_table(self, name: str) -> bool:
        return self.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).scalar() is not None

    def probe(self, query: Select[*Ts], column: ColumnElement[V], values: Collection[V]) -> Sequence[Row[*Ts]]:
        if not values:
            return []
        if isinstance(column.type, LargeBinary):  # which JSON cannot hold
            return self.execute(query.where(column.in_(values))).all()
        # One parameter: thousands of them cost more than the look-ups.
        wanted = orjson.dumps(list(values)).decode()
        return self.execute(query.where(column.in_(_WANTED)), {"wanted": wanted}).all()

    def content_ids(self, hashes: Sequence[bytes]) -> dict[bytes, int]:
        # By the driver: SQLAlchemy would spend more time on thousands of parameters than SQLite on the look-ups.
        ids: dict[bytes, int] = {}
        for first in range(0, len(hashes), _MOST_HASHES):
            page = tuple(hashes[first : first + _MOST_HASHES])
            places = ", ".join("?" * len(page))
            query = f"SELECT sha256, id, text FROM content WHERE sha256 IN ({places})"  # noqa: S608
            for sha256, content_id, text in self.exec_driver_sql(query, page):
                if hashlib.sha256(text.encode()).digest() != sha256:  # SQLite itself cannot check it
                    raise UnexpectedDatabaseError(
                        f"the text {content_id} in the table content is not the text of its hash: another program "
                        "wrote it. Restore the store from a backup"
                    )
                ids[sha256] = content_id
        return ids

    @staticmethod
    def insert(table: type[Base]) -> sqlite.Insert:
        return sqlite.insert(table.__table__)

    def load(self, table: type[Base], columns: Columns) -> None:
        """Load by the driver: SQLAlchemy would spend more time on the values than SQLite on the rows.

        A statement has many rows. Other threads, such as the one that reads the source, run during a statement, and
        the driver waits for its turn after each.
        """
        if not any(columns.values()):
            return
        if "id" in table.__table__.c and "id" not in columns:
            columns = {"id": self.next_ids(table, len(next(iter(columns.values())))), **columns}
        rows = list(zip(*columns.values(), strict=True))
        insert_into = f"INSERT INTO {table.__tablename__} ({', '.join(columns)}) VALUES"
        places = f"({', '.join('?' * len(columns))})"
        for first in range(0, len(rows), ROWS):
            page = rows[first : first + ROWS]
            statement = f"{insert_into} {', '.join([places] * len(page))}"
            self.exec_driver_sql(statement, tuple(chain.from_iterable(page)))

    def insert_missing(self, table: type[Base], columns: Columns, *returned: ColumnElement[Any]) -> Sequence[AnyRow]:
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        statement = self.insert(table).on_conflict_do_nothing()
        if returned:
            return self.execute(statement.returning(*returned), rows).all()
        self.execute(statement, rows)
        return []

    def upsert_outcomes(self, rows: Sequence[Mapping[str, Any]], *, redo: bool) -> int:
        stored = {*self.scalars(_STORED, {"ids": [row["content_id"] for row in rows]})}
        rows = [row for row in rows if row["content_id"] in stored]
        if not rows:
            return 0
        return self.execute(_put_outcomes(redo=redo), rows).rowcount

    def link_outputs(self, rows: Sequence[tuple[int, int, int]]) -> None:
        outcome = "UPDATE outcome SET output_id = ?3 WHERE spec_id = ?1 AND content_id = ?2"
        self.exec_driver_sql(outcome, list(rows))

    def next_ids(self, table: type[Base], n: int) -> list[int]:
        """Count on from the largest id that the table has or had: SQLite would use the ids of deleted rows again."""
        query = (
            f"SELECT 1 + max(coalesce((SELECT max(id) FROM {table.__tablename__}), 0), "  # noqa: S608
            "coalesce((SELECT id FROM last_id WHERE name = ?), 0))"
        )
        first = int(self.exec_driver_sql(query, (table.__tablename__,)).scalar_one())
        return list(range(first, first + n))

    def own_id(self, table: type[Base]) -> dict[str, int]:
        return {"id": self.next_ids(table, 1)[0]}

    def keep_last_ids(self, *tables: type[Base]) -> None:
        for table in tables:
            self.exec_driver_sql(
                "INSERT INTO last_id (name, id) "  # noqa: S608
                f"SELECT ?, coalesce(max(id), 0) FROM {table.__tablename__} WHERE true "
                "ON CONFLICT (name) DO UPDATE SET id = max(excluded.id, last_id.id)",
                (table.__tablename__,),
            )

    def elements(self, data: ColumnElement[Any], key: str) -> FromClause:
        return func.json_each(data, f"$.{key}").table_valued("value", name="item")
