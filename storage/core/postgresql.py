"""PostgreSQL: engines whose transactions keep no state in a session, so that poolers work.

A connection pooler such as PgBouncer may give every transaction another session of the server. So no statement is
prepared for later ones, settings are made with SET LOCAL as a transaction begins, and locks end with a transaction.

Connections notice when they are half open. The kernel notices a network that is gone, but not a proxy or a firewall
that keeps the connection up and forwards nothing: then each side waits for the other for ever. A long silence alone
proves nothing, since an index may take an hour to build. So a connection that has waited for long asks the server
over another connection.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import ceil
from types import MappingProxyType
from typing import Any

import orjson
import psycopg
from psycopg.errors import ConnectionTimeout
from psycopg.pq import Format
from psycopg.types.array import ListBinaryDumper
from psycopg.types.string import BytesBinaryDumper
from sqlalchemy import (
    JSON,
    Connection,
    CursorResult,
    Engine,
    FromClause,
    Row,
    Select,
    create_engine,
    event,
    func,
    literal,
    select,
    true,
)
from sqlalchemy import exc as sa_exc
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL, ExecutionContext
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.types import TypeEngine

from docmill.storage.core.schema import OUTCOME_VALUES, AnyRow, Base, OutcomeRow, db_now
from docmill.storage.core.server import POSTGRESQL, Patience
from docmill.storage.core.transaction import (
    IN_BINARY,
    Columns,
    K,
    Transaction,
    Ts,
    V,
    columns_of,
    first_line,
    wrap_unexpected,
)
from docmill.storage.errors import (
    GRANTS_DOCS,
    DatabaseBusy,
    DatabaseReadOnly,
    DatabaseSilent,
    DatabaseUnreachable,
    RightMissing,
    SchemaOutOfDate,
    StorageError,
    ValueRefused,
)

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
SERVER_PID = "SELECT pg_backend_pid()"
# A job may have three shards or a million: a plan that is made for the average of them suits neither. And
# `prefer_indexes` makes a small table look dear to read, for which JIT would compile its query, 0.2 s each time.
_ALWAYS = {"plan_cache_mode": "force_custom_plan", "jit": "off"}
# The words before the reason why one server could not be reached, whose address the database's name has.
_CONNECTING = re.compile(r'connection failed: connection to server at "[^"]+".*?, port \d+ failed: (FATAL: +)?')
# A connection that is refused has no SQLSTATE.
_FULL = ("too many clients", "too many connections", "remaining connection slots", "no more connections allowed")
_INSERTED_MEANWHILE = "23505"  # a row that was not there when this transaction looked: the next try sees it
_IDLE_FOR_TOO_LONG = "25P03"  # the server ended a transaction whose client was idle, such as a suspended machine
# Another transaction removed a text or corpus that this one refers to: the next try stores it anew, or does without.
# Or a run began while its pipeline was being removed: the next try removes both.
_REFER_TO_WHAT_IS_REMOVED = {
    "fk_ingest_corpus_id",
    "fk_document_content_id",
    "fk_outcome_content_id",
    "fk_outcome_output_id",
    "fk_step_text_content_id",
    "fk_prompt_content_id",
    "fk_pipeline_run_pipeline_id",
}
_BUSY = {"active", "fastpath function call"}
_NOTICE_LOST_CLIENT = """SELECT set_config('tcp_keepalives_idle', %(idle)s::text, false),
    set_config('tcp_keepalives_interval', %(interval)s::text, false),
    set_config('tcp_keepalives_count', %(count)s::text, false),
    set_config('tcp_user_timeout', %(unanswered_ms)s::text, false)"""
_OF_A_PROCESS = "SELECT state, wait_event_type FROM pg_stat_activity WHERE pid = %s"


def engine_for(url: URL, patience: Patience, **options: Any) -> Engine:
    """Return the engine of a server; nothing connects yet. Raises ValueError for a URL that is not PostgreSQL's."""
    if url.drivername not in POSTGRESQL:
        raise ValueError("neither SQLite nor PostgreSQL")
    engine = watched_engine(url, patience, {"autocommit": True}, pool_pre_ping=True, **options)
    event.listen(engine, "connect", partial(_prepare, patience=patience))
    event.listen(engine, "begin", partial(_begin, patience=patience))
    event.listen(engine, "before_cursor_execute", _choose_format)
    return engine


def connect_options(patience: Patience) -> dict[str, Any]:
    """Return the options of connecting: time limits for a network that loses data, and no prepared statements."""
    return {
        "application_name": "docmill",
        "connect_timeout": max(2, ceil(patience.answer_s)),  # libpq takes 1 for 2
        "keepalives": 1,
        **{f"keepalives_{name}": value for name, value in _keepalives(patience).items()},
        "tcp_user_timeout": round(patience.network_s * 1_000),
        "prepare_threshold": None,
    }


def _keepalives(patience: Patience) -> dict[str, int]:
    idle, interval = max(1, round(patience.answer_s)), max(1, round(patience.answer_s / 2))
    return {"idle": idle, "interval": interval, "count": 3}


def watched_engine(url: URL, patience: Patience, connect_args: Mapping[str, Any], **options: Any) -> Engine:
    """Return an engine whose connections notice when they are half open. SQLAlchemy takes the further options."""
    defaults = {name: value for name, value in connect_options(patience).items() if name not in url.query}
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"), connect_args={**defaults, **connect_args}, **options
    )
    event.listen(engine, "do_connect", partial(_connect, patience=patience))
    return engine


def _connect(
    _dialect: object, _record: object, arguments: Sequence[Any], options: dict[str, Any], *, patience: Patience
) -> WatchedConnection:
    connection = WatchedConnection.connect(*arguments, **options)
    connection.patience = patience
    connection.how = (arguments, options)
    return connection


def _choose_format(
    _connection: Connection,
    cursor: psycopg.Cursor[Any],
    _statement: str,
    _parameters: object,
    context: ExecutionContext | None,
    _many: bool,
) -> None:
    if context is not None and context.execution_options.get(IN_BINARY):
        cursor.format = Format.BINARY


def _prepare(connection: WatchedConnection, _record: object, *, patience: Patience) -> None:
    # psycopg would send lists of texts as one text, with every element searched for what must be escaped.
    connection.adapters.register_dumper(list, ListBinaryDumper)
    # By default a lost client's session lives for two hours, or a quarter of an hour with an answer in flight.
    # Sessions would add up with each network break until the server has too many.
    limits = {**_keepalives(patience), "unanswered_ms": round(patience.network_s * 1_000)}
    connection.execute(_NOTICE_LOST_CLIENT, limits)


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
    driver: object = connection.connection.dbapi_connection
    assert isinstance(driver, WatchedConnection)
    try:
        driver.begin(statements)
    except psycopg.Error as error:
        connection.invalidate(error)
        raise sa_exc.DBAPIError.instance(statements, None, error, psycopg.Error) from error


def is_pooled(connection: Connection) -> bool:
    """Return True if a pooler stands between a connection outside of transactions and the server.

    A pooler invents the process number that it tells a client, since the client has no server process of its own.
    Without a pooler, the connection's further statements are watched.
    """
    driver: object = connection.connection.dbapi_connection
    assert isinstance(driver, WatchedConnection)
    pid: int = connection.exec_driver_sql(SERVER_PID).scalar_one()
    driver.server_pid = pid
    driver.watched = pid == driver.info.backend_pid
    return not driver.watched


_SAID = {
    True: "the server works on the statement",
    False: "the server does not work on the statement",
    None: "the server cannot be asked",
}


class WatchedConnection(psycopg.Connection[Any]):
    """A connection that asks about its statement when the server has been silent; without `patience` it never does.

    `how` has the arguments to make another one; a connection without them gives up instead of asking. `server_pid` is
    the server process that carries out our transaction, which a pooler chooses anew each time; None outside of a
    transaction. `watched` is False where that process cannot be known: then only the kernel watches.
    """

    patience: Patience | None = None
    how: tuple[Any, dict[str, Any]] | None = None
    server_pid: int | None = None
    watched = True

    def begin(self, statements: str) -> None:
        """Begin a transaction. The last of the statements selects the server process."""
        self.server_pid = None
        with self.cursor() as cursor:
            cursor.execute(statements)
            while cursor.nextset():
                pass
            [self.server_pid] = cursor.fetchall()[0]

    def commit(self) -> None:
        try:
            super().commit()
        finally:
            self.server_pid = None

    def rollback(self) -> None:
        try:
            super().rollback()
        finally:
            self.server_pid = None

    def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        """Wait as the driver does. Raises OperationalError for a statement that is lost, and ConnectionTimeout from a
        server that is silent.
        """
        if self.patience is None or not self.watched:
            return super().wait(gen, *arguments, **options)
        return super().wait(self._watch(gen, self.patience), *arguments, **options)

    def _watch(self, gen: Any, patience: Patience) -> Generator[Any, Any, Any]:
        """Pass values between the driver's protocol and its wait, and act after a time without any."""
        heard = time.monotonic()
        look_at, was_lost = heard + patience.answer_s, False
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                now = time.monotonic()
                if ready:
                    heard, was_lost = now, False
                    look_at = now + patience.answer_s
                elif now >= look_at:
                    was_lost = self._look(patience, now - heard, was_lost=was_lost)
                    look_at = time.monotonic() + (patience.recheck_s if was_lost else patience.answer_s)
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value

    def _look(self, patience: Patience, silent_s: float, *, was_lost: bool) -> bool:
        """Ask the server about our statement: True if it is lost, as far as one answer tells. Raises when it is."""
        if self.how is None:
            self.close()
            raise psycopg.OperationalError(f"the server has been silent for {silent_s:.0f} s")
        try:
            is_working = self._ask(patience, *self.how)
        except ConnectionTimeout as error:
            self.close()
            raise ConnectionTimeout(
                f"the server has been silent for {silent_s:.0f} s, and a new connection is not answered either"
            ) from error
        is_lost = is_working is False
        too_long = patience.silence_s is not None and silent_s >= patience.silence_s
        if too_long or (is_lost and was_lost):
            self.close()
            raise psycopg.OperationalError(
                f"the connection has been silent for {silent_s:.0f} s: {_SAID[is_working]}"
            )
        return is_lost

    def _ask(self, patience: Patience, arguments: Any, options: dict[str, Any]) -> bool | None:
        """Ask over a connection of its own if the server works on our statement; None if it does not tell.

        Raises ConnectionTimeout when no connection can be made.
        """
        try:
            with WatchedConnection.connect(*arguments, **options) as other:
                other.patience = patience
                if self.server_pid is None:  # nothing takes long outside of a transaction
                    other.execute("SELECT 1")
                    return False
                process = other.execute(_OF_A_PROCESS, (self.server_pid,)).fetchone()
        except ConnectionTimeout:
            raise
        except psycopg.Error:  # it answers, if only that it takes no more connections
            return None
        return is_at_work(process)


def is_at_work(row: tuple[str | None, str | None] | None) -> bool | None:
    """Return True if a server process works on our statement, by its row (state, wait_event_type) of
    `pg_stat_activity`; None if that does not tell.
    """
    if row is None:
        return False
    state, waits_for = row
    if state is None or state == "disabled":  # another role's process, or a server that keeps no such statistics
        return None
    # A process that waits for its client has either sent the answer or not got all of the request.
    return state in _BUSY and waits_for != "Client"


class PostgresqlTransaction(Transaction):
    """A transaction of a PostgreSQL server."""

    server = "PostgreSQL"

    @staticmethod
    def wrap(outer: sa_exc.DBAPIError, database: str) -> StorageError:
        error: Any = outer.orig
        state: str = getattr(error, "sqlstate", None) or ""
        if state in {"42501", "3F000"}:  # the latter: there is no schema in which this user may make a table
            message = error.diag.message_primary or first_line(error)  # names the table, in the server's language
            return RightMissing(f"the user of the database {database} lacks a right: {message}; {GRANTS_DOCS}")
        if state in {"42P01", "42703"}:
            return SchemaOutOfDate()
        if state == "25006":
            return DatabaseReadOnly(f"the database {database} takes no writes")
        if state == "23503" and error.diag.constraint_name in _REFER_TO_WHAT_IS_REMOVED:
            return DatabaseBusy(f"something in the database {database} was removed while it was being referred to")
        if state[:2] in {"40", "53", "57", "55"} or state in {_IDLE_FOR_TOO_LONG, _INSERTED_MEANWHILE}:
            return DatabaseBusy(f"the database {database} is busy: {first_line(error)}")
        if state[:2] in {"22", "54"} or isinstance(outer, sa_exc.DataError):
            # Without PostgreSQL's own words, which quote the value.
            return ValueRefused(f"the database {database} cannot store a value: {type(error).__name__}")
        if isinstance(error, ConnectionTimeout):
            return DatabaseSilent(f"cannot reach the database {database}: {first_line(error)}")
        # For an option that a URL must not have the driver raises the error that a server raises for a statement.
        of_the_url = isinstance(outer, sa_exc.ProgrammingError) and not state and outer.statement is None
        if isinstance(outer, sa_exc.OperationalError) or of_the_url:
            several = "\nMultiple" in str(error)  # servers, of which the line names one
            reason = first_line(error) if several else _CONNECTING.sub("", first_line(error), count=1)
            if any(words in reason for words in _FULL):
                reason += "; raise its max_connections, run fewer workers, or put PgBouncer before it"
            return DatabaseUnreachable(f"cannot reach the database {database}: {reason}")
        return wrap_unexpected(error, database, f"SQLSTATE {state or 'none'}")

    def has_table(self, name: str) -> bool:
        return self.exec_driver_sql("SELECT to_regclass(%s)", (name,)).scalar() is not None

    def advisory_lock(self, *key: int, shared: bool = False) -> None:
        places = "%s::bigint" if len(key) == 1 else "%s::int, %s::int"
        self.exec_driver_sql(f"SELECT pg_advisory_xact_lock{'_shared' if shared else ''}({places})", key)

    def lock_row(self, table: type[Base], row_id: int) -> None:
        query = f"SELECT id FROM {table.__tablename__} WHERE id = %s FOR NO KEY UPDATE"  # noqa: S608
        self.exec_driver_sql(query, (row_id,))

    def for_update(
        self, query: Select[*Ts], *, of: type[Base] | None = None, skip_locked: bool = False
    ) -> Select[*Ts]:
        """Lock FOR NO KEY UPDATE: a new row that refers to a locked one does not wait."""
        return query.with_for_update(of=None if of is None else of.__table__, skip_locked=skip_locked, key_share=True)

    def in_lock_order(self, keys: Sequence[K]) -> list[K]:
        return sorted(keys)

    def prefer_indexes(self) -> None:
        """Forbid scans of whole tables. PostgreSQL takes every job for an average job, and expects that reading a
        million shards from the start soon finds a shard of any job.
        """
        self.exec_driver_sql("SET LOCAL enable_seqscan = off")

    def prefer_index_order(self) -> None:
        """Forbid sorts. While PostgreSQL knows nothing of a new table, it would sort its rest for every page."""
        self.exec_driver_sql("SET LOCAL enable_sort = off")

    def keep_key_plans(self) -> None:
        """Keep plans, which `beginning` forbids: making one costs more than writing a row. Only plans made from here
        on are kept, and they scan no table, whatever its size was when they were made.
        """
        self.prefer_indexes()
        self.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")

    def probe(self, query: Select[*Ts], column: ColumnElement[V], values: Collection[V]) -> Sequence[Row[*Ts]]:
        """Look each value up. For an `IN (…)`, PostgreSQL would read all of a table that is just being filled, since
        it knows nothing of it yet. OFFSET 0 keeps its planner from turning the look-ups into one join.
        """
        if not values:
            return []
        array = literal(list(values), postgresql.ARRAY(column.type))
        wanted = func.unnest(array).table_valued("value").render_derived(name="wanted")
        matches = query.where(column == wanted.c.value).offset(0).lateral("matches")
        return self.execute(select(matches).select_from(wanted).join(matches, true())).all()

    def content_ids(self, hashes: Sequence[bytes]) -> dict[bytes, int]:
        # One parameter: thousands of them cost more than the look-ups. OFFSET 0: see `probe`.
        query = (
            "SELECT sha256, id FROM generate_series(1, %s::int, 32) AS start CROSS JOIN LATERAL "
            "(SELECT sha256, id FROM content WHERE sha256 = substring(%s::bytea FROM start FOR 32) OFFSET 0) AS hits"
        )
        rows = self.exec_driver_sql(query, (32 * len(hashes), b"".join(hashes)))
        return {sha256: content_id for sha256, content_id in rows}  # noqa: C416 - rows are not tuples to mypy

    @staticmethod
    def insert(table: type[Base]) -> postgresql.Insert:
        return postgresql.insert(table.__table__)

    def load(self, table: type[Base], columns: Columns) -> None:
        """Load by COPY in binary, so that neither side has to escape texts and hashes."""
        if not any(columns.values()):
            return
        target = table.__table__
        if target.foreign_keys:
            self.keep_key_plans()
        types, written = zip(
            *(_in_binary(target.c[name].type, values) for name, values in columns.items()), strict=True
        )
        with _copy(self.connection, f"COPY {target.name} ({', '.join(columns)})") as copy:
            copy.set_types(types)
            for row in zip(*written, strict=True):
                copy.write_row(row)

    def try_load(self, table: type[Base], columns: Columns) -> bool:
        try:
            with self.begin_nested():
                self.load(table, columns)
        except sa_exc.IntegrityError:
            return False
        return True

    def insert_missing(self, table: type[Base], columns: Columns, *returned: ColumnElement[Any]) -> Sequence[AnyRow]:
        if not returned:
            self._insert_arrays(table, columns, "ON CONFLICT DO NOTHING")
            return []
        names = ", ".join(column.key or "" for column in returned)
        return self._insert_arrays(table, columns, f"ON CONFLICT DO NOTHING RETURNING {names}").all()

    def upsert_outcomes(self, rows: Sequence[Mapping[str, Any]], *, redo: bool) -> int:
        worse = "outcome.status = 'failed'" if redo else "outcome.status = 'failed' AND excluded.status = 'done'"
        replaced = ", ".join(f"{name} = excluded.{name}" for name in OUTCOME_VALUES)
        there = "WHERE EXISTS (SELECT FROM content WHERE content.id = new.content_id)"
        conflict = f"{there} ON CONFLICT (spec_id, content_id) DO UPDATE SET {replaced} WHERE {worse}"
        self.keep_key_plans()
        return self._insert_arrays(OutcomeRow, columns_of(rows), conflict, {"created_at": db_now()}).rowcount

    def link_outputs(self, rows: Sequence[tuple[int, int, int]]) -> None:
        self.keep_key_plans()
        self.exec_driver_sql(
            "UPDATE outcome SET output_id = new.output_id FROM unnest(%b::bigint[], %b::bigint[], %b::bigint[]) "
            "AS new (spec_id, content_id, output_id) "
            "WHERE outcome.spec_id = new.spec_id AND outcome.content_id = new.content_id",
            tuple(map(list, zip(*rows, strict=True))),
        )

    def _insert_arrays(
        self,
        table: type[Base],
        columns: Columns,
        conflict: str,
        more: Mapping[str, ColumnElement[Any]] = MappingProxyType({}),
    ) -> CursorResult[*tuple[Any, ...]]:
        """Insert the rows in their order, by an INSERT of arrays: COPY cannot handle rows that are there already.

        A temporary table would need a privilege that workers do not have. `more` has SQL expressions for further
        columns. JSON is given as its values. Columns that are NULL in every row are left to the table, which has no
        defaults. Arrays go in binary: as text a vector is written and parsed digit by digit, which takes ten times
        as long.
        """
        target = table.__table__
        columns = {name: values for name, values in columns.items() if any(value is not None for value in values)}
        names, new, arrays = [*columns, *more], list[str](), list[str]()
        values: list[Sequence[Any]] = []
        for name, column_values in columns.items():
            kind = target.c[name].type
            if isinstance(kind, JSON):
                new.append(f"new.{name}::jsonb")
                arrays.append("%b::text[]")
                values.append([None if value is None else orjson.dumps(value).decode() for value in column_values])
            else:
                new.append(f"new.{name}")
                arrays.append(f"%b::{kind.compile(_DIALECT)}[]")
                values.append(column_values)
        new += [str(expression.compile(dialect=_DIALECT)) for expression in more.values()]
        statement = (
            f"INSERT INTO {target.name} ({', '.join(names)}) SELECT {', '.join(new)} "  # noqa: S608
            f"FROM unnest({', '.join(arrays)}) AS new ({', '.join(columns)}) {conflict}"
        )
        return self.exec_driver_sql(statement, tuple(values))

    def next_ids(self, table: type[Base], n: int) -> list[int]:
        # In one row: thousands of them would cost more to fetch than the numbers to make. OFFSET 0 keeps the planner
        # from looking the sequence's name up for each.
        numbers = self.exec_driver_sql(
            "SELECT string_agg(nextval(ids)::text, ',') FROM generate_series(1, %s), "
            "(SELECT pg_get_serial_sequence(%s, 'id')::regclass AS ids OFFSET 0) AS sequence",
            (n, table.__tablename__),
        ).scalar_one()
        return sorted(map(int, numbers.split(",")))

    def elements(self, data: ColumnElement[Any], key: str) -> FromClause:
        return func.jsonb_array_elements(data[key]).table_valued("value", name="item").render_derived()


def _in_binary(kind: TypeEngine[Any], values: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """Return a column as COPY sends it: its type for the driver, and its values. JSON is a version and the text."""
    if isinstance(kind, JSON):
        return "bytea", [None if value is None else b"\1" + value.encode() for value in values]
    return kind.compile(_DIALECT).lower(), values


def copy_binary(connection: Connection, into: str, rows: bytes) -> None:
    """Load rows that are in PostgreSQL's binary form; `into` is the COPY statement up to its FROM."""
    with _copy(connection, into) as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8) + rows + b"\xff\xff")


@contextmanager
def _copy(connection: Connection, into: str) -> Iterator[psycopg.Copy]:
    """Yield a COPY in binary. Raise the errors of its raw cursor as SQLAlchemy raises them."""
    statement = f"{into} FROM STDIN (FORMAT BINARY)"
    driver: object = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    try:
        with driver.cursor() as cursor:
            # psycopg's own choice for bytes looks for a wrapper around each: half of the time that rows take here.
            cursor.adapters.register_dumper(bytes, BytesBinaryDumper)
            with cursor.copy(statement.encode()) as copy:
                yield copy
    except psycopg.Error as error:
        raise sa_exc.DBAPIError.instance(statement, None, error, psycopg.Error) from error
