"""Who must not work at the same time takes turns.

Who refers to contents and who collects them: many of the former at once, or one of the latter. And who walks a job's
documents and who leads its outputs on to them, where a step has a prompt for each document: both look for what the
other has, and neither would see what is on its way.

On PostgreSQL a lock of the database's own that lasts as long as the transaction; a foreign key alone would let
collection drop an outcome that a job has just counted as done before. In SQLite writers take turns anyhow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from storage.core.database import Database

_NUMBER = 0x646F636D696C6C  # "docmill"
_WALKS = 0x77616C6B  # "walk", beside a job's number


def refer(database: Database, connection: Connection) -> None:
    """From here to the transaction's end nothing is collected. Call it before looking for what to refer to."""
    if not database.is_sqlite:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock_shared(%s::bigint)", (_NUMBER,))


def collect(database: Database, connection: Connection) -> None:
    """From here to the transaction's end nobody begins to refer to a content. Call it before holding any row."""
    if not database.is_sqlite:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s::bigint)", (_NUMBER,))


def walk(database: Database, connection: Connection, job_id: int) -> None:
    """From here to the transaction's end no output of a job is led to its documents. Call it before looking."""
    if not database.is_sqlite:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s::int, %s::int)", (_WALKS, _of(job_id)))


def follow(database: Database, connection: Connection, job_id: int) -> None:
    """From here to the transaction's end a job walks no document. Call it before looking for those it has walked."""
    if not database.is_sqlite:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock_shared(%s::int, %s::int)", (_WALKS, _of(job_id)))


@contextmanager
def alone(database: Database, subject: int, number: int) -> Iterator[bool]:
    """Hold a lock on (subject, number) as long as the block; False where another process holds it. PostgreSQL only.

    It is the lock of a transaction that does nothing else, and not a session's: behind a connection pooler that would
    stay with a session of the server which others use next. The transaction keeps no snapshot, for whose end others,
    such as CREATE INDEX CONCURRENTLY, would wait.
    """
    with database.unhurried() as connection:
        # Without parameters: with them the server keeps the statement, and its snapshot, until the transaction ends.
        asked = f"SELECT pg_try_advisory_xact_lock({subject:d}, {number:d})"
        yield bool(connection.exec_driver_sql(asked).scalar_one())


def _of(job_id: int) -> int:
    """A job's number as PostgreSQL's locks take it; two that share one only wait for each other."""
    return job_id % 2**31
