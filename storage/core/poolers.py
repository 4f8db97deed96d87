"""Recognise a connection pooler, such as PgBouncer, between docmill and PostgreSQL."""

from __future__ import annotations

from enum import Enum

from storage.core.database import Database
from storage.core.transaction import Transaction

_ROUNDS = 8


class Pooling(Enum):
    """Modes in which a pooler hands sessions of the server to its clients."""

    NONE = "there is no pooler"
    SESSIONS = "a connection keeps its session of the server"
    TRANSACTIONS = "each transaction may get another session of the server"


def pooling(database: Database) -> Pooling:
    """Return how the server's sessions are pooled, as far as two connections that take turns can tell."""
    if database.server is None:
        return Pooling.NONE
    with (
        database.outside_transactions() as (one, is_pooled),
        database.outside_transactions() as (other, _),
    ):
        if not is_pooled:
            return Pooling.NONE
        seen = [(_process(one), _process(other)) for _ in range(_ROUNDS)]
    first, second = ({*processes} for processes in zip(*seen, strict=True))
    alternate = len(first) > 1 or len(second) > 1 or first & second
    return Pooling.TRANSACTIONS if alternate else Pooling.SESSIONS


def _process(transaction: Transaction) -> int:
    pid: int = transaction.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    return pid
