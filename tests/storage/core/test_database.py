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
from sqlalchemy import delete, event, make_url, select, text
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
from tests.storage.builders import (
    at_once,
    count_rows,
    numbered,
    read,
    request,
)
from tests.worker.harness import DEADLINE_S

PASSWORD = "kanarienvogel"
read_and_write = pytest.mark.parametrize(
    "act",
    [status.list_statuses, lambda database: maintenance.hold(database, "upkeep", "w1", 1.0)],
    ids=["read", "write"],
)


def chain(error: BaseException | None) -> str:
    """Return an error and its causes as a traceback prints them."""
    said = ""
    while error is not None:
        said += f"{error!r} {error} "
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return said


@pytest.fixture(scope="module")
def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


@read_and_write
def test_an_unreachable_server_is_named_without_its_password(
    closed_port: int, act: Callable[[Database], Any]
) -> None:
    database = Database(f"postgresql://reader:{PASSWORD}@127.0.0.1:{closed_port}/docmill")
    with pytest.raises(DatabaseUnreachable, match="cannot reach the database") as caught:
        act(database)
    assert str(caught.value).endswith(f"@127.0.0.1:{closed_port}/docmill: Connection refused")
    assert PASSWORD not in chain(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+psycopg"])
def test_every_way_to_write_postgresql_is_understood(postgres_url: str, scheme: str) -> None:
    database = Database(f"{scheme}://{postgres_url.partition('://')[2]}")
    assert database.value(select(1)) == 1
    database.close()


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
def test_a_url_that_is_none_is_refused_without_saying_it(url: str) -> None:
    with pytest.raises(StorageError, match="DOCMILL_DATABASE_URL") as caught:
        Database(url)
    assert PASSWORD not in chain(caught.value)


def test_a_wrong_password_or_name_is_said_without_the_password(postgres_server: PostgresServer) -> None:
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
    database = Database(f"sqlite:///{tmp_path / file}")
    with pytest.raises(DatabaseUnreachable, match=says):
        status.list_statuses(database)
    database.close()


def test_a_file_that_is_gone_is_missed_and_one_in_its_place_is_opened(tmp_path: Path, sqlite_url: str) -> None:
    file = tmp_path / "one" / "docmill.db"
    copied = Path(make_url(sqlite_url).database or "").read_bytes()
    file.parent.mkdir()
    file.write_bytes(copied)
    with closing(Database(f"sqlite:///{file}")) as database:
        corpus_id = database.write(lambda transaction: lookups.corpus_id(transaction, "books"))
        assert database.values(select(Corpus.id)) == [corpus_id]
        shutil.rmtree(file.parent)
        for use in (lambda: database.values(select(Corpus.id)), lambda: database.execute(delete(Corpus))):
            with pytest.raises(DatabaseUnreachable, match="No such file"):
                use()
        assert not file.parent.exists()
        file.parent.mkdir()
        file.write_bytes(copied)
        assert database.values(select(Corpus.id)) == []


def test_an_error_that_nobody_classified_has_its_code_and_no_documents_text(
    database: Database,
) -> None:
    said = r"SQLITE_CONSTRAINT_NOTNULL\): .*sha256" if database.server is None else r"SQLSTATE 23502\): .*sha256"
    statement = text("INSERT INTO content (id, sha256, text, n_chars) VALUES (1, NULL, :text, 1)")
    with pytest.raises(UnexpectedDatabaseError, match=said) as caught:
        database.write(lambda transaction: transaction.execute(statement, {"text": "a secret text"}))
    assert isinstance(caught.value.__cause__, IntegrityError)
    assert "a secret text" not in str(caught.value)


def test_a_row_that_another_writer_inserted_meanwhile_is_seen_by_the_next_try(postgres: Database) -> None:
    def find_or_make(transaction: Transaction) -> int:
        number = transaction.scalar(select(Corpus.id))
        if number is None:
            postgres.write(make)
            make(transaction)
        return number or 0

    def make(transaction: Transaction) -> int:
        return lookups.insert_row(transaction, Corpus, name="books", created_at=0.0)

    assert postgres.write(find_or_make) == 1


def test_a_value_that_the_database_cannot_store_is_refused_as_that_without_its_text(database: Database) -> None:
    if database.server is None:
        limit = (sqlite3.SQLITE_LIMIT_LENGTH, 1_000)
        event.listen(database.engine, "connect", lambda connection, _: connection.setlimit(*limit))
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
def test_an_error_of_our_own_code_in_a_transaction_is_not_taken_for_the_drivers(
    database: Database, error: Exception
) -> None:
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
def test_a_stop_waits_for_the_end_of_a_write_and_a_second_one_does_not(
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


def test_a_connection_that_the_server_cut_is_made_anew(postgres_url: str) -> None:
    database = Database(postgres_url, kinds=KINDS)
    cut = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    tries = 0

    def cut_off_once(transaction: Transaction) -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            other = Database(postgres_url, kinds=KINDS)
            other.execute(cut)
            other.close()
        transaction.execute(text("INSERT INTO lease (name, owner, until) VALUES ('a', 'b', 0)"))
        return tries

    assert database.write(cut_off_once) == 2
    database.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_has_connections_of_its_own(postgres: Database) -> None:
    before = server_process(postgres)
    ours, childs = os.pipe()
    if (child := os.fork()) == 0:
        with suppress(BaseException):
            os.write(childs, str(server_process(postgres)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(childs)
    assert int(os.read(ours, 20)) != before
    assert server_process(postgres) == before
    os.close(ours)


def server_process(database: Database) -> int:
    with database.read() as transaction:
        pid: int = transaction.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    return pid


def test_two_transactions_that_wait_for_each_other_both_come_through(postgres: Database) -> None:
    # PostgreSQL ends one of them as a deadlock, and it is run again.
    for name in "ab":
        maintenance.hold(postgres, name, "w", 60)
    both = Barrier(2)

    def crossed(first: str, second: str) -> None:
        waited = False

        def work(transaction: Transaction) -> None:
            nonlocal waited
            for name in (first, second):
                transaction.execute(text("UPDATE lease SET until = until + 1 WHERE name = :name"), {"name": name})
                if not waited:
                    waited = True
                    both.wait(DEADLINE_S)

        postgres.write(work)

    at_once(lambda: crossed("a", "b"), lambda: crossed("b", "a"))


def test_the_clock_is_the_databases_and_moves_within_a_transaction(database: Database) -> None:
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


def test_nothing_is_planned_for_a_kind_that_is_not_known(database: Database) -> None:
    with pytest.raises(StorageError, match=r"no task kind ocr") as refused:
        read(database, request(spec=Spec("ocr", "null", "null:1")), numbered(1))
    assert f"it has: {', '.join(sorted(database.kinds))}." in str(refused.value)
    assert count_rows(database, Shard) == 0
