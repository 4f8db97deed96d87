"""SQLite: engines with the right pragmas."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL

from storage.core.private_files import make_file, make_folder

BUSY_TIMEOUT_S = 10.0


def engine_for(url: URL, busy_timeout_s: float, **options: Any) -> Engine:
    """Return the engine of a file; nothing connects yet. Raises ValueError for a store in memory."""
    if not url.database or url.database == ":memory:":
        raise ValueError("a store in memory cannot be shared by threads and processes")
    engine = create_engine(url, connect_args={"timeout": busy_timeout_s}, **options)
    event.listen(engine, "do_connect", _make_folder)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _make_folder(_dialect: Any, _record: Any, arguments: Sequence[Any], _options: Any) -> None:
    if not str(arguments[0]).startswith("file:"):
        make_folder(Path(arguments[0]).parent)
        make_file(Path(arguments[0]))  # SQLite gives its journals the same rights


def _prepare(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves; the driver would say it too late
    cursor = connection.cursor()
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous=FULL")  # with WAL, NORMAL may lose what was committed before a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA secure_delete=ON")  # what is deleted or replaced leaves the file, and not only its tables
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
