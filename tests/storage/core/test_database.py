"""A store that is unreachable, without a schema or interrupted; its transactions, its clock and its errors."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import delete, func, make_url, select, text
from sqlalchemy.exc import IntegrityError

from docmill.storage import errors
from docmill.storage.core import lookups
from docmill.storage.core.database import Database, Uninterrupted
from docmill.storage.core.schema import Corpus, Shard, db_now
from docmill.storage.core.specs import Spec
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import (
    DatabaseUnreachable,
    StorageError,
    UnexpectedDatabaseError,
    ValueRefused,
)
from docmill.storage.leases import maintenance
from docmill.storage.results import status
from tests.conftest import Interrupt
from tests.kinds import KINDS
from tests.postgres import PostgresServer
from tests.storage.builders import at_once, count_rows, limit_sqlite, numbered, read, request
from tests.worker.harness import DEADLINE_S

PASSWORD = "kanarienvogel"
read_and_write = pytest.mark.parametrize(
    "act",
    [status.list_statuses, lambda database: maintenance.hold(database, "upkeep", "w1", 1.0)],
    ids=["read", "write"],
)


def chain(error: BaseException | None) -> str:
    """Return an error and its causes as a traceback prints them."""
    message = ""
    while error is not None:
        message += f"{error!r} {error} "
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return message


@pytest.fixture(scope="module")
def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


@read_and_write
def test_an_unreachable_server_is_named_without_a_password(closed_port: int, act: Callable[[Database], Any]) -> None:
    database = Database(f"postgresql://reader:{PASSWORD}@127.0.0.1:{closed_port}/docmill")
    with pytest.raises(DatabaseUnreachable, match="cannot reach the database") as caught:
        act(database)
    assert str(caught.value).endswith(f"@127.0.0.1:{closed_port}/docmill: Connection refused")
    assert PASSWORD not in chain(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+psycopg"])
def test_every_spelling_of_a_postgresql_url_is_accepted(postgres_url: str, scheme: str) -> None:
    with closing(Database(f"{scheme}://{postgres_url.partition('://')[2]}")) as database:
        assert database.value(select(1)) == 1


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{PASSWORD}@host:port/x",
        f"mysql://u:{PASSWORD}@host/x",
        f"{PASSWORD}",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_an_invalid_url_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(StorageError, match="DOCMILL_DATABASE_URL") as caught:
        Database(url)
    assert PASSWORD not in chain(caught.value)


def test_an_unknown_database_is_named_without_the_password(postgres_server: PostgresServer) -> None:
    database = Database(postgres_server.url("no_such_database").replace("@", f":{PASSWORD}@"))
    with pytest.raises(DatabaseUnreachable, match="no_such_database") as caught:
        status.list_statuses(database)
    assert PASSWORD not in chain(caught.value)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("text", "not a database"),
        ("folder", "unable to open database file; its folder has to be there"),
        ("text/docmill.db", "cannot use the database"),
    ],
)
def test_a_file_that_cannot_be_a_database_is_unreachable(tmp_path: Path, file: str, says: str) -> None:
    (tmp_path / "text").write_bytes(b"this is a text file and not a database at all" * 100)
    (tmp_path / "folder").mkdir()
    with (
        closing(Database(f"sqlite:///{tmp_path / file}")) as database,
        pytest.raises(DatabaseUnreachable, match=says),
    ):
        status.list_statuses(database)


def test_a_deleted_file_is_missed_and_a_new_file_in_its_place_is_opened(tmp_path: Path, sqlite_url: str) -> None:
    file = tmp_path / "store" / "docmill.db"
    schema = Path(make_url(sqlite_url).database or "").read_bytes()
    file.parent.mkdir()
    file.write_bytes(schema)
    with closing(Database(f"sqlite:///{file}")) as database:
        corpus_id = database.write(lambda transaction: lookups.corpus_id(transaction, "books"))
        assert database.values(select(Corpus.id)) == [corpus_id]
        shutil.rmtree(file.parent)
        for use in (lambda: database.values(select(Corpus.id)), lambda: database.execute(delete(Corpus))):
            with pytest.raises(DatabaseUnreachable, match="No such file"):
                use()
        assert not file.parent.exists()
        file.parent.mkdir()
        file.write_bytes(schema)
        assert database.values(select(Corpus.id)) == []


def test_an_unexpected_error_has_its_code_and_no_text_of_a_document(database: Database) -> None:
    code_and_column = (
        r"SQLITE_CONSTRAINT_NOTNULL\): .*sha256" if database.server is None else r"SQLSTATE 23502\): .*sha256"
    )
    statement = text("INSERT INTO content (id, sha256, text, n_chars) VALUES (1, NULL, :text, 1)")
    with pytest.raises(UnexpectedDatabaseError, match=code_and_column) as caught:
        database.write(lambda transaction: transaction.execute(statement, {"text": "a secret text"}))
    assert isinstance(caught.value.__cause__, IntegrityError)
    assert "a secret text" not in str(caught.value)


def test_the_next_try_sees_a_row_that_another_writer_inserted_meanwhile(postgres: Database) -> None:
    def find_or_make(transaction: Transaction) -> int:
        number = transaction.scalar(select(Corpus.id))
        if number is None:
            postgres.write(make)
            make(transaction)
        return number or 0

    def make(transaction: Transaction) -> int:
        return lookups.insert_row(transaction, Corpus, name="books", created_at=0.0)

    assert postgres.write(find_or_make) == 1


def test_a_value_that_the_database_cannot_store_is_refused_and_not_quoted(database: Database) -> None:
    if database.server is None:
        limit_sqlite(database, sqlite3.SQLITE_LIMIT_LENGTH, 1_000)
    value = "secret " * 1_000 if database.server is None else "secret \0"
    statement = text("INSERT INTO lease (name, owner, until) VALUES (:name, 'b', 0)")
    with pytest.raises(ValueRefused, match="cannot store a value") as caught:
        database.write(lambda transaction: transaction.execute(statement, {"name": value}))
    assert "secret" not in str(caught.value)


def test_a_value_that_the_driver_cannot_send_is_refused(database: Database) -> None:
    with pytest.raises(ValueRefused, match="surrogates not allowed"):
        lookups.find_corpus(database, "caf\udce9")
    if database.server is None:
        with pytest.raises(ValueRefused, match="too large"):
            database.value(select(Corpus.id).where(Corpus.id == 10**20))


@pytest.mark.parametrize(
    "error", [OverflowError("ours"), UnicodeEncodeError("utf-8", "ours", 0, 1, "no"), OSError(5)]
)
def test_an_error_of_our_own_code_in_a_transaction_is_raised_as_it_is(database: Database, error: Exception) -> None:
    def fail(_: Transaction) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        database.write(fail)
    assert caught.value is error


def test_a_read_sees_one_state_of_the_store(database: Database) -> None:
    read(database, request(), numbered(1))
    count = text("SELECT count(*) FROM document")
    with database.read() as transaction:
        before = transaction.scalar(count)
        read(database, request("b.jsonl"), numbered(5))
        assert transaction.scalar(count) == before == 1


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_a_write_and_a_second_signal_does_not(
    database: Database, stop: signal.Signals, interrupt: Interrupt
) -> None:
    written = []

    def work(transaction: Transaction) -> None:
        interrupt(stop)
        written.append(transaction.execute(select(text("1"))).scalar_one())
        if len(written) == 2:
            interrupt(stop)
            written.append(None)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            database.write(work)
    assert written == [1, 1]
    assert signal.getsignal(stop) is signal.default_int_handler


def test_a_handler_that_an_interrupt_left_behind_holds_no_signal_back(interrupt: Interrupt) -> None:
    with Uninterrupted():
        left_behind = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, left_behind)
    with pytest.raises(KeyboardInterrupt):
        interrupt(signal.SIGTERM)


def test_a_connection_that_the_server_cut_is_replaced(postgres_url: str) -> None:
    cut = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    tries = 0

    def cut_off_once(transaction: Transaction) -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            with closing(Database(postgres_url, kinds=KINDS)) as beside:
                beside.execute(cut)
        transaction.execute(text("INSERT INTO lease (name, owner, until) VALUES ('a', 'b', 0)"))
        return tries

    with closing(Database(postgres_url, kinds=KINDS)) as database:
        assert database.write(cut_off_once) == 2


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_has_connections_of_its_own(postgres: Database) -> None:
    before = server_process(postgres)
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        with suppress(BaseException):
            os.write(writing, str(server_process(postgres)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    assert int(os.read(reading, 20)) != before
    assert server_process(postgres) == before
    os.close(reading)


def server_process(database: Database) -> int:
    """Return the process of the server that serves the connection."""
    return database.value(select(func.pg_backend_pid())) or 0


def test_two_deadlocked_transactions_both_commit(postgres: Database) -> None:
    # PostgreSQL aborts one of them, and docmill runs it again.
    for name in "ab":
        maintenance.hold(postgres, name, "w", 60)
    barrier = Barrier(2)

    def crossed(first: str, second: str) -> None:
        waited = False

        def work(transaction: Transaction) -> None:
            nonlocal waited
            for name in (first, second):
                transaction.execute(text("UPDATE lease SET until = until + 1 WHERE name = :name"), {"name": name})
                if not waited:
                    waited = True
                    barrier.wait(DEADLINE_S)

        postgres.write(work)

    at_once(lambda: crossed("a", "b"), lambda: crossed("b", "a"))


def test_time_comes_from_the_database_and_moves_within_a_transaction(database: Database) -> None:
    def clock(transaction: Transaction) -> list[float]:
        return [float(transaction.scalar(select(db_now())) or 0) for _ in range(50)]

    times = database.write(clock)
    assert times == sorted(times)
    assert times[-1] > times[0]
    assert abs(times[-1] - time.time()) < 5


def test_errors_survive_pickling_and_say_their_docstring() -> None:
    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, StorageError):
            assert str(pickle.loads(pickle.dumps(error()))) == str(error()) == error.__doc__
            assert str(pickle.loads(pickle.dumps(error("more")))) == "more"


def test_nothing_is_planned_for_an_unknown_kind(database: Database) -> None:
    with pytest.raises(StorageError, match=r"no task kind ocr") as refused:
        read(database, request(spec=Spec("ocr", "null", "null:1")), numbered(1))
    assert f"it has: {', '.join(sorted(database.kinds))}." in str(refused.value)
    assert count_rows(database, Shard) == 0
