"""Advisory locks that keep garbage collection from racing with new references, and a job's two planners apart.

Many transactions may refer to contents at once, or one may collect contents. Without the lock collection could drop
an outcome that a job has just counted as done. For a step with a prompt for each document, one planner walks the
documents and another follows outputs to documents. Each looks for what the other has written, and must not miss it.

Locks last until the end of the transaction. SQLite needs none, since it has one writer at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from docmill.storage.core.database import Database
from docmill.storage.core.transaction import Transaction

_NUMBER = 0x646F636D696C6C  # "docmill"
_COUNTS = 0x636F756E7473  # "counts"
_WALKS = 0x77616C6B  # "walk", beside a job's number


def refer(transaction: Transaction) -> None:
    """Keep contents from being collected until the transaction ends. Call it before looking for contents."""
    transaction.advisory_lock(_NUMBER, shared=True)


def collect(transaction: Transaction) -> None:
    """Keep others from referring to contents until the transaction ends. Call it before locking any row."""
    transaction.advisory_lock(_NUMBER)


def walk(transaction: Transaction, job_id: int) -> None:
    """Keep others from following a job's outputs until the transaction ends. Call it before reading documents."""
    transaction.advisory_lock(_WALKS, _of(job_id))


def follow(transaction: Transaction, job_id: int) -> None:
    """Keep a job from walking documents until the transaction ends. Call it before looking for walked ones."""
    transaction.advisory_lock(_WALKS, _of(job_id), shared=True)


def recount(transaction: Transaction) -> None:
    """Keep others from correcting kept counts until the transaction ends. Call it before reading them."""
    transaction.advisory_lock(_COUNTS)


@contextmanager
def alone(database: Database, subject: int, number: int) -> Iterator[bool]:
    """Hold a lock on (subject, number) during the block; yield False if another process holds it. PostgreSQL only.

    The lock belongs to a transaction that does nothing else. A session's lock would stay behind in a connection
    pooler. The transaction keeps no snapshot, since CREATE INDEX CONCURRENTLY would wait for its end.
    """
    with database.unhurried() as transaction:
        # Without parameters: with them the server keeps the statement, and its snapshot, until the transaction ends.
        statement = f"SELECT pg_try_advisory_xact_lock({subject:d}, {number:d})"
        yield bool(transaction.exec_driver_sql(statement).scalar_one())


def _of(job_id: int) -> int:
    """Return a job's number in the range of PostgreSQL's locks. Two jobs that share one wait for each other."""
    return job_id % 2**31
