"""Advisory locks that keep garbage collection from racing with new references, and a job's two planners apart.

Many transactions may refer to contents at once, or one may collect contents. Without the lock collection could drop
an outcome that a job has just counted as done. For a step with a prompt for each document, one planner walks the
documents and another follows outputs to documents. Each looks for what the other has written, and must not miss it.

Locks last until the end of the transaction. SQLite needs none, since it has one writer at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from storage.core.database import Database

_NUMBER = 0x646F636D696C6C  # "docmill"
_WALKS = 0x77616C6B  # "walk", beside a job's number


def refer(database: Database, connection: Connection) -> None:
    """Keep contents from being collected until the transaction ends. Call it before looking for contents."""
    if not database.is_sqlite:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock_shared(%s::bigint)", (_NUMBER,))


def collect(database: Database, connection: Connection) -> None:
    """Keep others from referring to contents until the transaction ends. Call it before locking any row."""
    if not database.is_sqlite:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s::bigint)", (_NUMBER,))


def walk(database: Database, connection: Connection, job_id: int) -> None:
    """Keep others from following a job's outputs until the transaction ends. Call it before reading documents."""
    if not database.is_sqlite:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s::int, %s::int)", (_WALKS, _of(job_id)))


def follow(database: Database, connection: Connection, job_id: int) -> None:
    """Keep a job from walking documents until the transaction ends. Call it before looking for walked ones."""
    if not database.is_sqlite:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock_shared(%s::int, %s::int)", (_WALKS, _of(job_id)))


@contextmanager
def alone(database: Database, subject: int, number: int) -> Iterator[bool]:
    """Hold a lock on (subject, number) during the block; yield False if another process holds it. PostgreSQL only.

    The lock belongs to a transaction that does nothing else. A session's lock would stay behind in a connection
    pooler. The transaction keeps no snapshot, since CREATE INDEX CONCURRENTLY would wait for its end.
    """
    with database.unhurried() as connection:
        # Without parameters: with them the server keeps the statement, and its snapshot, until the transaction ends.
        asked = f"SELECT pg_try_advisory_xact_lock({subject:d}, {number:d})"
        yield bool(connection.exec_driver_sql(asked).scalar_one())


def _of(job_id: int) -> int:
    """Return a job's number in the range of PostgreSQL's locks. Two jobs that share one wait for each other."""
    return job_id % 2**31
