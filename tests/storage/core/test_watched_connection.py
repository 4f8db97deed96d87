"""A connection to PostgreSQL that is half open is noticed and made again; a statement that takes long is let be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
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
    """Makes databases behind the proxy."""
    made: list[Database] = []

    def make(patience: Patience = SOON, **options: Any) -> Database:
        url = make_url(postgres_url).set(port=proxy.port)
        made.append(Database(url.render_as_string(hide_password=False), patience=patience, **options))
        return made[-1]

    yield make
    for database in made:
        database.close()


@pytest.fixture
def beside(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A session that goes past the proxy."""
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
    """Nothing more: the COMMIT is what is lost."""


@pytest.mark.parametrize("act", [ask, end])
def test_a_write_whose_connection_is_half_open_is_made_again_and_its_locks_are_freed(
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


def test_rows_that_are_copied_into_a_half_open_connection_are_copied_again(
    behind: Callable[..., Database], proxy: Proxy, beside: psycopg.Connection[Any]
) -> None:
    database = behind()
    tries = 0

    class Names(list[str]):
        """Values that are read one by one; the connection is lost before the last of the first reading."""

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


def test_a_read_whose_connection_is_half_open_says_that_the_connection_is_lost(
    behind: Callable[..., Database], proxy: Proxy
) -> None:
    with pytest.raises(DatabaseUnreachable, match="does not work on the statement") as raised:
        lose_and_ask(behind(), proxy)
    assert not isinstance(raised.value, DatabaseSilent)


def test_connections_that_became_half_open_while_nobody_used_them_are_replaced(
    behind: Callable[..., Database], proxy: Proxy
) -> None:
    database = behind()
    with database.read() as one, database.read() as other:
        ask(one)
        ask(other)
    proxy.lose_all()
    for _ in range(3):
        with database.read() as transaction:
            ask(transaction)


def test_a_server_that_goes_silent_is_said_to_be_and_is_not_asked_again(
    behind: Callable[..., Database], proxy: Proxy
) -> None:
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


def test_a_statement_that_takes_long_is_asked_after_and_not_given_up(
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


def test_an_answer_that_arrives_while_the_server_is_asked_is_taken(
    behind: Callable[..., Database], beside: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement was done when the server said so, and a second look finds nothing that is lost."""
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


@pytest.mark.timeout(60)
def test_a_short_statement_of_a_server_that_says_nothing_of_it_is_given_up_in_time(
    behind: Callable[..., Database], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where statistics are switched off, or another role's process is not shown."""
    monkeypatch.setattr(postgresql, "is_at_work", lambda _: None)

    with pytest.raises(DatabaseUnreachable, match=r"silent for .* cannot be asked"):
        lose_and_ask(behind(Patience(answer_s=0.5, bounded=True)), proxy)


def test_a_statement_that_is_short_by_nature_is_ended_by_the_server(
    behind: Callable[..., Database], beside: psycopg.Connection[Any]
) -> None:
    beside.execute("LOCK TABLE corpus")
    database = behind(Patience(answer_s=0.5, bounded=True), retries=1)
    with pytest.raises(DatabaseBusy, match="statement timeout"):
        database.write(lambda transaction: transaction.exec_driver_sql("LOCK TABLE corpus"))


@pytest.mark.parametrize(
    ("found", "verdict"),
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
def test_a_server_process_works_unless_it_waits_for_us(
    found: tuple[str | None, str | None] | None, verdict: bool | None
) -> None:
    assert is_at_work(found) is verdict


def test_with_default_settings_a_half_open_connection_is_noticed_in_time() -> None:
    patience = Patience()
    connect_s = connect_options(patience)["connect_timeout"]
    # A pooled connection is pinged, the server asked after it, and another one made; each step may find silence.
    assert patience.answer_s + 2 * connect_s <= NOTICED_S
    # One that is lost alone: asked after twice. What its transaction locked is free by then, or soon after.
    assert patience.answer_s + patience.recheck_s + 2 * connect_s + patience.answer_s <= NOTICED_S
    assert patience.idle_s + patience.answer_s <= NOTICED_S
    assert patience.network_s <= NOTICED_S
    silence_s = Patience(bounded=True).silence_s
    assert silence_s is not None
    assert silence_s <= NOTICED_S


def test_a_server_asks_after_a_client_that_is_silent_as_the_client_does(postgres_url: str) -> None:
    database = Database(postgres_url)
    with database.read() as transaction:
        shown = [
            transaction.exec_driver_sql(f"SHOW tcp_keepalives_{name}").scalar()
            for name in ("idle", "interval", "count")
        ]
    database.close()
    assert shown == [str(connect_options(Patience())[f"keepalives_{name}"]) for name in ("idle", "interval", "count")]
