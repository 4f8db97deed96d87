"""A half-open connection to PostgreSQL is noticed and replaced; a long statement is not interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from docmill.storage.core import postgresql
from docmill.storage.core.database import Database
from docmill.storage.core.postgresql import connect_options, is_at_work
from docmill.storage.core.schema import Lease
from docmill.storage.core.server import Patience
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import DatabaseBusy, DatabaseSilent, DatabaseUnreachable
from tests.faults.proxy import Proxy
from tests.worker.harness import until

SOON = Patience(answer_s=0.5)
NOTICED_S = 45.0


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    with Proxy(make_url(postgres_url).port or 5432) as proxy:
        yield proxy


@pytest.fixture
def behind(postgres_url: str, proxy: Proxy) -> Iterator[Callable[..., Database]]:
    """Yield a function that makes databases behind the proxy."""
    url = make_url(postgres_url).set(port=proxy.port).render_as_string(hide_password=False)
    with ExitStack() as stack:
        yield lambda patience=SOON, **options: stack.enter_context(
            closing(Database(url, patience=patience, **options))
        )


@pytest.fixture
def beside(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A session that does not use the proxy."""
    url = make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        yield connection


def ask(transaction: Transaction) -> None:
    transaction.exec_driver_sql("SELECT 1")


def lose_and_ask(database: Database, proxy: Proxy) -> None:
    with database.read() as reading:
        proxy.lose_all()
        ask(reading)


def end(transaction: Transaction) -> None:
    """Do nothing more, so that the COMMIT is lost."""


@pytest.mark.parametrize("act", [ask, end])
def test_a_write_on_a_half_open_connection_is_repeated_and_its_locks_are_freed(
    behind: Callable[..., Database], proxy: Proxy, act: Callable[[Transaction], None]
) -> None:
    tries = 0

    def work(transaction: Transaction) -> int:
        nonlocal tries
        tries += 1
        transaction.exec_driver_sql("LOCK TABLE corpus")
        if tries == 1:
            proxy.lose_all()
        act(transaction)
        return tries

    assert behind().write(work) == 2


def test_rows_copied_into_a_half_open_connection_are_copied_again(
    behind: Callable[..., Database], proxy: Proxy, beside: psycopg.Connection[Any]
) -> None:
    database = behind()
    tries = 0

    class Names(list[str]):
        """Values that are read one by one. In the first try, the connection is lost before the last value."""

        def __iter__(self) -> Iterator[str]:
            first, last = super().__iter__()
            yield first
            if tries == 1:
                proxy.lose_all()
            yield last

    def work(transaction: Transaction) -> None:
        nonlocal tries
        tries += 1
        names = Names(["upkeep", "schedules"])
        transaction.load(Lease, {"name": names, "owner": ["w1", "w1"], "until": [1.0, 1.0]})

    database.write(work)
    assert tries == 2
    assert beside.execute("SELECT count(*) FROM lease").fetchall() == [(2,)]


def test_a_read_on_a_half_open_connection_fails(behind: Callable[..., Database], proxy: Proxy) -> None:
    with pytest.raises(DatabaseUnreachable, match="does not work on the statement") as raised:
        lose_and_ask(behind(), proxy)
    assert not isinstance(raised.value, DatabaseSilent)


def test_idle_connections_that_became_half_open_are_replaced(behind: Callable[..., Database], proxy: Proxy) -> None:
    database = behind()
    with database.read() as first, database.read() as second:
        ask(first)
        ask(second)
    proxy.lose_all()
    for _ in range(3):
        with database.read() as transaction:
            ask(transaction)


def test_a_silent_server_is_named_and_not_asked_again(behind: Callable[..., Database], proxy: Proxy) -> None:
    tries = 0

    def work(transaction: Transaction) -> None:
        nonlocal tries
        tries += 1
        ask(transaction)
        proxy.blackhole()
        ask(transaction)

    with pytest.raises(DatabaseSilent, match=r"cannot reach the database .* silent for"):
        behind().write(work)
    assert tries == 1


def test_a_long_statement_is_asked_about_and_not_given_up(
    behind: Callable[..., Database], proxy: Proxy, beside: psycopg.Connection[Any]
) -> None:
    database = behind()
    tries: list[int] = []

    def work(transaction: Transaction) -> None:
        tries.append(1)
        transaction.exec_driver_sql("LOCK TABLE corpus")

    beside.execute("LOCK TABLE corpus")
    waiting = threading.Thread(target=database.write, args=(work,))
    waiting.start()
    until(lambda: proxy.connections >= 5, "the server is asked again and again", 60)
    beside.commit()
    waiting.join(60)
    assert not waiting.is_alive()
    assert tries == [1]


def test_an_answer_that_arrives_while_the_server_is_asked_counts(
    behind: Callable[..., Database], beside: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first check says that the server does not work on the statement, which is done by then."""
    verdicts = [False]

    def judge(_: object) -> bool:
        if len(verdicts) == 3:
            beside.commit()
        verdicts.append(True)
        return verdicts[len(verdicts) - 2]

    tries: list[int] = []

    def work(transaction: Transaction) -> None:
        tries.append(1)
        transaction.exec_driver_sql("LOCK TABLE corpus")

    database = behind()
    monkeypatch.setattr(postgresql, "is_at_work", judge)
    beside.execute("LOCK TABLE corpus")
    database.write(work)
    assert tries == [1]
    assert len(verdicts) >= 4, "it was asked again"


@pytest.mark.timeout(300)
def test_a_bounded_statement_is_given_up_in_time_if_the_server_says_nothing_about_it(
    behind: Callable[..., Database], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if statistics were switched off, or the process belonged to another role.
    monkeypatch.setattr(postgresql, "is_at_work", lambda _: None)

    with pytest.raises(DatabaseUnreachable, match=r"silent for .* cannot be asked"):
        lose_and_ask(behind(Patience(answer_s=0.5, bounded=True)), proxy)


def test_the_server_ends_bounded_statements(behind: Callable[..., Database], beside: psycopg.Connection[Any]) -> None:
    beside.execute("LOCK TABLE corpus")
    database = behind(Patience(answer_s=0.5, bounded=True), retries=1)
    with pytest.raises(DatabaseBusy, match="statement timeout"):
        database.write(lambda transaction: transaction.exec_driver_sql("LOCK TABLE corpus"))


@pytest.mark.parametrize(
    ("activity", "verdict"),
    [
        (None, False),
        (("idle", "Client"), False),
        (("idle in transaction", "Client"), False),
        (("active", "Client"), False),
        (("active", "Lock"), True),
        (("active", None), True),
        (("disabled", None), None),
        ((None, None), None),
    ],
)
def test_a_server_process_is_at_work_unless_it_waits_for_the_client(
    activity: tuple[str | None, str | None] | None, verdict: bool | None
) -> None:
    assert is_at_work(activity) is verdict


def test_with_default_settings_a_half_open_connection_is_noticed_in_time() -> None:
    patience = Patience()
    connect_s = connect_options(patience)["connect_timeout"]
    # docmill pings a pooled connection, asks the server about it, and makes another; each step may meet silence.
    assert patience.answer_s + 2 * connect_s <= NOTICED_S
    # If only this connection is lost, docmill asks twice. By then the server has freed its locks, or does soon.
    assert patience.answer_s + patience.recheck_s + 2 * connect_s + patience.answer_s <= NOTICED_S
    assert patience.idle_s + patience.answer_s <= NOTICED_S
    assert patience.network_s <= NOTICED_S
    silence_s = Patience(bounded=True).silence_s
    assert silence_s is not None
    assert silence_s <= NOTICED_S


def test_the_server_checks_a_silent_client_as_often_as_the_client_checks_the_server(postgres_url: str) -> None:
    names = ("idle", "interval", "count")
    with closing(Database(postgres_url)) as database, database.read() as transaction:
        settings = [transaction.exec_driver_sql(f"SHOW tcp_keepalives_{name}").scalar() for name in names]
    assert settings == [str(connect_options(Patience())[f"keepalives_{name}"]) for name in names]
