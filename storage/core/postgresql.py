"""PostgreSQL: engines whose transactions keep no state in a session, so that poolers work.

A connection pooler such as PgBouncer may give every transaction another session of the server. So no statement is
prepared for later ones, settings are made with SET LOCAL as a transaction begins, and locks end with a transaction.
"""

from __future__ import annotations

from functools import partial
from math import ceil
from typing import Any

import psycopg
from psycopg.types.array import ListBinaryDumper
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy import exc as sa_exc
from sqlalchemy.engine import URL

from storage.core.postgres_urls import POSTGRESQL
from storage.core.time_limits import Patience
from storage.core.watched_connection import WatchedConnection

SERVER_PID = "SELECT pg_backend_pid()"
# A job may have three shards or a million: a plan that is made for the average of them suits neither. And
# `Database.look_up` makes a small table look dear to read, for which JIT would compile its query, 0.2 s each time.
_ALWAYS = {"plan_cache_mode": "force_custom_plan", "jit": "off"}


def engine_for(url: URL, patience: Patience, **options: Any) -> Engine:
    """Return the engine of a server; nothing connects yet. Raises ValueError for a URL that is not PostgreSQL's."""
    if url.drivername not in POSTGRESQL:
        raise ValueError("neither SQLite nor PostgreSQL")
    url = url.set(drivername="postgresql+psycopg")
    given = {name: value for name, value in connect_options(patience).items() if name not in url.query}
    engine = create_engine(url, pool_pre_ping=True, connect_args={**given, "autocommit": True}, **options)
    watch(engine, patience)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", partial(_begin, patience=patience))
    return engine


def connect_options(patience: Patience) -> dict[str, Any]:
    """Return the options of connecting: time limits for a network that loses data, and no prepared statements."""
    return {
        "application_name": "docmill",
        "connect_timeout": max(2, ceil(patience.answer_s)),  # libpq takes 1 for 2
        "keepalives": 1,
        "keepalives_idle": max(1, round(patience.answer_s)),
        "keepalives_interval": max(1, round(patience.answer_s / 2)),
        "keepalives_count": 3,
        "tcp_user_timeout": round(patience.network_s * 1_000),
        "prepare_threshold": None,
    }


def watch(engine: Engine, patience: Patience) -> None:
    """Have an engine's connections notice when they are half open, from the first transaction on."""
    event.listen(engine, "do_connect", partial(_connect, patience=patience))


def _connect(
    _dialect: Any, _record: Any, arguments: Any, options: dict[str, Any], *, patience: Patience
) -> WatchedConnection:
    connection = WatchedConnection.connect(*arguments, **options)
    connection.patience = patience
    connection.how = (arguments, options)
    return connection


def _prepare(connection: WatchedConnection, _record: Any) -> None:
    # psycopg would send lists of texts as one text, with every element searched for what must be escaped.
    connection.adapters.register_dumper(list, ListBinaryDumper)


def beginning(patience: Patience, *, writes: bool) -> str:
    """Return the statements that begin a transaction, which are sent together."""
    settings = dict(_ALWAYS)
    if patience.statement_s is not None:
        settings["statement_timeout"] = f"{round(patience.statement_s * 1_000)}"
    if writes:  # else a transaction that a lost connection left open would hold its locks for hours
        settings["idle_in_transaction_session_timeout"] = f"{round(patience.idle_s * 1_000)}"
    isolation = "" if writes else " ISOLATION LEVEL REPEATABLE READ"
    local = "".join(f"SET LOCAL {name} = {value}; " for name, value in settings.items())
    return f"BEGIN{isolation}; {local}{SERVER_PID}"


def _begin(connection: Connection, *, patience: Patience) -> None:
    options = connection.get_execution_options()
    if not options.get("docmill_autocommit", False):
        begin(connection, beginning(patience, writes=options.get("docmill_write", False)))


def begin(connection: Connection, statements: str = SERVER_PID) -> None:
    """Begin a transaction of a watched engine by these statements, the last of which selects the server process."""
    driver: Any = connection.connection.dbapi_connection
    assert isinstance(driver, WatchedConnection)
    try:
        driver.begin(statements)
    except psycopg.Error as error:
        connection.invalidate(error)
        raise sa_exc.DBAPIError.instance(statements, None, error, psycopg.Error) from error


def is_pooled(connection: Connection) -> bool:
    """True where a pooler stands between a connection outside of transactions and the server.

    A pooler invents the process number that it tells a client, since the client has no server process of its own.
    Where there is none, the connection's further statements are watched.
    """
    driver: Any = connection.connection.dbapi_connection
    assert isinstance(driver, WatchedConnection)
    pid: int = connection.exec_driver_sql(SERVER_PID).scalar_one()
    driver.server_pid = pid
    driver.watched = pid == driver.info.backend_pid
    return not driver.watched
