"""The rows of a SQL query: `sqlite:///FILE?SELECT …`, `postgresql://USER@HOST/NAME?SELECT …`.

The query is sent as written and runs in a read-only transaction. Rows are fetched by a cursor in batches.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg.abc import Buffer, Loader
from psycopg.types.datetime import (
    DateLoader,
    IntervalLoader,
    TimeLoader,
    TimestampLoader,
    TimestamptzLoader,
    TimetzLoader,
)
from sqlalchemy import NullPool, create_engine, event, exc
from sqlalchemy.engine import URL, Connection, CursorResult, Engine

from docmill.storage.core import database, postgresql
from docmill.storage.core.normalize import normalize
from docmill.storage.core.server import Patience
from docmill.storage.core.transaction import first_line
from docmill.storage.readers.errors import SourceError, SourceUnsupported
from docmill.storage.readers.files import RowSource
from docmill.storage.readers.records import Rejection, Row, Rows, SourceOptions, check_columns, keys_of, too_long
from docmill.storage.readers.streams import open_regular, path_text
from docmill.storage.readers.table import as_row

SQLITE = "sqlite"
_HOW = "write sqlite:///FILE?SELECT … or postgresql://USER:PASSWORD@HOST/NAME?SELECT … (an @ in a password is %40)"
_PARTS = re.compile(r"(?P<url>[^?]+(?:\?[\w.]+=[^?\s]*)?)\?(?![\w.]+=\S*$)(?P<query>.*\S.*)", re.DOTALL)
_ROWS_AT_ONCE = 100  # each may be a long document
_READS_ONLY = "only a query is read, such as a SELECT"
_LEAST_LENGTH = 2**20  # SQLite's limit also covers the text of the query
# All that a query needs of SQLite. Even a read-only connection could attach and create other files.
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_ALLOWED |= {sqlite3.SQLITE_TRANSACTION}
_LOADERS: dict[str, type[Loader]] = {
    "date": DateLoader,
    "time": TimeLoader,
    "timetz": TimetzLoader,
    "timestamp": TimestampLoader,
    "timestamptz": TimestamptzLoader,
    "interval": IntervalLoader,
}
_INFINITE = {"infinity", "-infinity"}
_ALLOWED_PRAGMAS = {"data_version", "read_uncommitted"}  # used by full-text search and SQLAlchemy


class QuerySource(RowSource):
    """The rows of a query, each a record by its columns' names. `name` shows no password."""

    def __init__(self, source: str, options: SourceOptions) -> None:
        url, self._query = _split(source)
        if url.startswith(f"{SQLITE}:"):
            path = sqlite_file(source)
            with open_regular(path):
                pass
            path = path.resolve()
            shown, place = f"{SQLITE}:///{path_text(path)}", path_text(path.name)
            self._engine = _sqlite(path, options.max_record_bytes)
        else:
            shown, place, self._engine = _postgresql(database_url(source))
        self._shown = shown
        super().__init__(f"{shown}?{normalize(self._query)[0]}", place, options)

    def _rows(self) -> Rows:
        number, planned = 0, False
        try:
            with self._engine.connect() as connection, self._result(connection) as result:
                planned = True
                columns = list(result.keys())
                check_columns(columns, self._shown, self._options)
                for number, values in enumerate(result, 1):
                    where = f"{self._place}:{number}"
                    row = as_row(dict(zip(columns, values, strict=True)), where, self._options)
                    text = values[columns.index(self._options.text_field)]
                    if isinstance(row, Row) and not _fits(text, self._options):
                        keys = keys_of(row.fields, self._place, where, self._options)
                        row = Rejection(where, too_long(self._options.max_record_bytes), keys=keys)
                    yield row
        except exc.DBAPIError as error:
            if not planned:
                if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_AUTH:
                    raise SourceUnsupported(f"{self._shown}: {_READS_ONLY}") from error
                raise SourceError(f"{self._shown}: {first_line(error.orig)}") from error
            # From here on the database's messages may contain text of a document.
            code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None)
            reason = f"the database ended the query ({code or type(error.orig).__name__})"
            if not number:
                raise SourceError(f"{self._shown}: {reason}") from error
            yield Rejection(
                f"{self._place}:{number}", f"{reason} after row {number:,}; nothing more was read", fatal=True
            )

    @contextmanager
    def _result(self, connection: Connection) -> Iterator[CursorResult[Any]]:
        # Without parameters, so that % and ? in the query stay as they are.
        how = {"no_parameters": True, "stream_results": True, "yield_per": _ROWS_AT_ONCE}
        with connection.execution_options(**how).exec_driver_sql(self._query) as result:
            if not result.returns_rows:
                raise SourceUnsupported(f"{self._shown}: {_READS_ONLY}")
            yield result


def sqlite_file(source: str) -> Path:
    """Return the file of a `sqlite:///FILE?…`. Raises SourceUnsupported if it names none."""
    url, _ = _split(source)
    path = url.removeprefix(f"{SQLITE}:///")
    if path == url or not path or path == ":memory:":
        raise SourceUnsupported(f"the source names no file of SQLite: {_HOW}")
    return Path(path)


def _split(source: str) -> tuple[str, str]:
    parts = _PARTS.fullmatch(source)
    if parts is None:
        raise SourceUnsupported(f"the source has no query: {_HOW}")
    return parts["url"], parts["query"].strip()


def database_url(source: str) -> URL:
    """Return the URL of the database in a `postgresql://…?SELECT …`. Raises SourceUnsupported if it is none."""
    address, _ = _split(source)
    try:
        return database.parse_url(address)
    except (exc.ArgumentError, ValueError):
        # Not `from error`: its message may contain a part of the password.
        raise SourceUnsupported(f"the source is not the URL of a database: {_HOW}") from None


def _sqlite(path: Path, most: int) -> Engine:
    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro", uri=True)
        connection.execute("PRAGMA trusted_schema = OFF")  # a foreign file may have harmful views
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(most, _LEAST_LENGTH))
        connection.text_factory = lambda raw: raw.decode(errors="surrogateescape")
        connection.set_authorizer(_authorize)
        return connection

    return create_engine("sqlite://", creator=connect, poolclass=NullPool, hide_parameters=True)


def _authorize(action: int, argument: str | None, *_: object) -> int:
    harmless = action in _ALLOWED or (action == sqlite3.SQLITE_PRAGMA and argument in _ALLOWED_PRAGMAS)
    return sqlite3.SQLITE_OK if harmless else sqlite3.SQLITE_DENY


def _postgresql(url: URL) -> tuple[str, str, Engine]:
    """Return the database's URL for messages, its name, and its engine, which has no connection yet."""
    try:
        engine = postgresql.watched_engine(
            url,
            Patience(),
            {"require_auth": _choose_authentication(url)},
            poolclass=NullPool,
            hide_parameters=True,
            execution_options={"postgresql_readonly": True},
        )
        event.listen(engine, "begin", postgresql.begin)
        event.listen(engine, "connect", _load_dates)
    except (exc.ArgumentError, ValueError):
        # Not `from error`: its message may contain a part of the password.
        raise SourceUnsupported(f"the source is not the URL of a database: {_HOW}") from None
    return (
        database.mask_passwords(url.set(drivername="postgresql")),
        url.database or url.username or "postgresql",
        engine,
    )


def _load_dates(connection: psycopg.Connection, _record: object) -> None:
    """Load times with a zone in UTC. Values that psycopg cannot read, such as `infinity`, become text."""
    for name, loader in _LOADERS.items():
        connection.adapters.register_loader(name, _or_text(loader))


def _or_text(loader: type[Loader]) -> type[Loader]:
    class OrText(loader):  # type: ignore[misc,valid-type]
        def load(self, data: Buffer) -> object:
            text = bytes(data).decode()
            if text in _INFINITE:  # which psycopg reads as an interval of 0 seconds
                return text
            try:
                value = super().load(data)
                return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo else value
            except (psycopg.DataError, OverflowError, NotImplementedError):
                return text

    return OrText


def _choose_authentication(url: URL) -> str:
    """Return how libpq may prove a password to the host that a source names, as its parameter `require_auth`.

    Without a password in the URL, libpq takes that of PGPASSWORD, perhaps another host's. SCRAM proves a password
    without telling it. Raises SourceUnsupported if the URL asks for one in plain text without verified TLS.
    """
    methods = str(url.query.get("require_auth") or "")
    is_verified = url.query.get("sslmode") == "verify-full"
    has_own = url.password is not None or "password" in url.query
    if not methods:
        return "" if has_own and is_verified else "!password" if has_own else "!password,!md5"
    names = {name.strip() for name in methods.split(",")}
    if not is_verified and ("password" in names or (methods.startswith("!") and "!password" not in names)):
        raise SourceUnsupported("a password is sent in plain text only with sslmode=verify-full in the source's URL")
    return methods


def _fits(text: object, options: SourceOptions) -> bool:
    most = options.max_record_bytes
    return not isinstance(text, str) or len(text) * 4 <= most or len(text.encode(errors="replace")) <= most
