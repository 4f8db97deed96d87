"""Who refers to contents and who collects them take turns: many of the former at once, or one of the latter.

On PostgreSQL a lock of the database's own that lasts as long as the transaction; a foreign key alone would let
collection drop an outcome that a job has just counted as done before. In SQLite writers take turns anyhow.
"""

from __future__ import annotations

from sqlalchemy import Connection

from storage.database import Database

_NUMBER = 0x646F636D696C6C  # "docmill"


def refer(database: Database, connection: Connection) -> None:
    """From here to the transaction's end nothing is collected. Call it before looking for what to refer to."""
    if not database.is_sqlite:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock_shared(%s::bigint)", (_NUMBER,))


def collect(database: Database, connection: Connection) -> None:
    """From here to the transaction's end nobody begins to refer to a content. Call it before holding any row."""
    if not database.is_sqlite:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s::bigint)", (_NUMBER,))
