"""Orders as a worker carries them out: some become jobs, others are refused, and a cancelled one leaves nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from storage.core.clock import db_now
from storage.core.database import Database
from storage.core.schema import EnqueueOrder, Job
from storage.pipelines import orders
from storage.pipelines.orders import Order
from worker.orders import desk
from worker.orders.message import parse_enqueue
from worker.queue.broker import Broker
from worker.settings import Settings, load_settings
from worker.submit.enqueue import enqueue
from worker.submit.request import prepare

LEASE_S = 60.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "c.jsonl").write_text('{"id": "1", "text": "a text"}\n')
    return load_settings(home=tmp_path / "home", order_roots=str(tmp_path))


@pytest.fixture
def order(database: Database, tmp_path: Path) -> Callable[..., Order]:
    """Places and takes the order `one`, for a file of one text."""

    def order(**more: Any) -> Order:
        asked = {"source": str(tmp_path / "c.jsonl"), "task": "embed", "model": "null", **more}
        orders.place(database, "one", asked)
        return take(database)

    return order


def take(database: Database) -> Order:
    order = orders.take(database, "w1", LEASE_S)
    assert order is not None
    return order


def carry_out(settings: Settings, database: Database, order: Order) -> Any:
    """Carry an order out; return its row."""
    desk.carry_out(settings, database, Broker("redis://127.0.0.1:1"), order)
    return orders.get(database, "one")


def states(database: Database) -> list[str]:
    with database.read() as transaction:
        return [*transaction.scalars(select(Job.state).order_by(Job.id))]


def test_an_order_becomes_a_job(settings: Settings, database: Database, order: Callable[..., Order]) -> None:
    row = carry_out(settings, database, order())
    assert (row.state, row.job_id, row.reason, row.owner) == ("done", 1, None, None)
    assert states(database) == ["running"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"corpus": "a\0b"}, "corpus has a NUL or half a character"),
        ({"source": "a\0b"}, "source has a NUL or half a character"),
        ({"prompt": "\ud800"}, "prompt has a NUL or half a character"),
        ({"no\0name": 1}, "takes no argument no\ufffdname"),
        ({"source": "{root}/*/../nothing.jsonl"}, None),
        ({"source": "{root}/loop"}, "cannot be checked: RuntimeError"),
        ({"model": "~nobody-has-this-name/x"}, "cannot be checked: RuntimeError"),
        ({"model": "x" * 5_000}, "cannot be checked: OSError"),
    ],
    ids=str,
)
def test_an_order_that_nobody_could_store_or_check_is_stored_as_refused(
    settings: Settings, database: Database, tmp_path: Path, asked: dict[str, Any], says: str | None
) -> None:
    """Else its message would come again for ever, or be gone without a word to its sender."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    of_file = {"source": str(tmp_path / "c.jsonl"), "task": "embed"}
    given = {
        name: value.replace("{root}", str(tmp_path)) if isinstance(value, str) else value
        for name, value in (of_file | asked).items()
    }
    stop = threading.Event()
    taking = desk.Desk(settings, database, Broker("redis://127.0.0.1:1"), "w1", stop)
    for_ever = threading.Timer(30, stop.set)
    for_ever.start()
    assert taking.store("one", given), "it was tried again and again"
    for_ever.cancel()
    row = orders.get(database, "one")
    assert row.state == ("waiting" if says is None else "refused")
    assert says is None or says in (row.reason or "")


def test_an_order_that_is_cancelled_before_its_job_is_opened_leaves_no_job_that_waits(
    settings: Settings, database: Database, order: Callable[..., Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare_and_cancel(*asked: Any) -> Any:
        prepared = prepare(*asked)
        orders.cancel(database, "one")
        return prepared

    monkeypatch.setattr(desk, "prepare", prepare_and_cancel)
    assert carry_out(settings, database, order()).state == "cancelled"
    assert states(database) == ["cancelled"]


def test_an_order_that_was_stored_under_other_settings_is_held_against_those_of_its_reader(
    database: Database, order: Callable[..., Order], tmp_path: Path
) -> None:
    row = carry_out(load_settings(home=tmp_path / "home"), database, order())
    assert (row.state, row.job_id) == ("refused", None)
    assert "DOCMILL_ORDER_ROOTS" in row.reason
    assert states(database) == []


def test_an_order_whose_reading_no_worker_ends_is_refused_after_many_tries(
    settings: Settings, database: Database, order: Callable[..., Order]
) -> None:
    order()
    lapsed = {"lease_until": db_now() - 1, "tries": orders.MOST_TRIES}
    database.write(lambda transaction: transaction.execute(update(EnqueueOrder).values(**lapsed)))
    row = carry_out(settings, database, take(database))
    assert (row.state, row.job_id) == ("refused", None)
    assert row.reason == f"its reading was begun {orders.MOST_TRIES} times, and no worker came to its end"
    assert states(database) == []


def test_a_reading_that_begins_again_with_another_source_stops_the_job_that_it_began(
    settings: Settings, database: Database, order: Callable[..., Order], tmp_path: Path
) -> None:
    """As a model that changed meanwhile: what the next reader opens is another job."""
    first = order()
    begun = enqueue(database, lambda: None, prepare(settings, parse_enqueue(dict(first.arguments))))
    assert orders.note_job(database, first, begun.id)
    orders.give_back(database, first)
    asked = {**first.arguments, "model": "null@5"}
    database.write(lambda transaction: transaction.execute(update(EnqueueOrder).values(arguments=asked)))
    row = carry_out(settings, database, take(database))
    assert (row.state, row.job_id) == ("done", 2)
    assert states(database) == ["stopped", "running"]
