"""Orders in the store: placed once, taken by one worker at a time, ended once."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from storage.core.clock import db_now
from storage.core.database import Database
from storage.core.schema import EnqueueOrder
from storage.deletion import removal
from storage.errors import NoSuchOrder
from storage.pipelines import orders
from storage.pipelines.orders import Order
from storage.steps import jobs
from tests.storage.builders import at_once, numbered, read, request

ASKED = {"source": "a.jsonl", "task": "embed"}
LEASE_S = 60.0


def placed(database: Database, sender_id: str = "one") -> None:
    assert orders.place(database, sender_id, ASKED)


def taken(database: Database, owner: str = "w1") -> Order:
    order = orders.take(database, owner, LEASE_S)
    assert order is not None
    return order


def set_order(database: Database, **values: object) -> None:
    database.write(lambda transaction: transaction.execute(update(EnqueueOrder).values(**values)))


def lapse(database: Database) -> None:
    set_order(database, lease_until=db_now() - 1)


def test_an_order_that_comes_twice_is_stored_once_and_the_first_holds(database: Database) -> None:
    assert orders.place(database, "one", ASKED)
    assert not orders.place(database, "one", {"source": "b.jsonl", "task": "embed"}, "it is refused")
    row = orders.get(database, "one")
    assert row.state == "waiting"
    assert row.arguments == ASKED
    assert row.reason is None
    assert sum(at_once(*[lambda: orders.place(database, "two", ASKED)] * 4)) == 1
    assert [row.sender_id for row in orders.latest(database, 10)] == ["two", "one"]


def test_an_order_is_held_by_one_worker_at_a_time_the_oldest_first(database: Database) -> None:
    placed(database, "one")
    placed(database, "two")
    assert taken(database, "w1").sender_id == "one"
    assert taken(database, "w2").sender_id == "two"
    assert orders.take(database, "w3", LEASE_S) is None


def test_a_lapsed_order_is_taken_by_another_and_its_first_reader_can_write_nothing_more(database: Database) -> None:
    placed(database)
    first = taken(database, "w1")
    lapse(database)
    second = taken(database, "w2")
    assert second.fence == first.fence + 1
    assert not orders.renew(database, first, LEASE_S)
    assert not orders.note_job(database, first, 7)
    assert not orders.end(database, first, "refused", reason="late")
    assert orders.end(database, second, "done", job_id=8)
    assert not orders.end(database, second, "refused", reason="late")
    row = orders.get(database, "one")
    assert (row.state, row.job_id, row.reason, row.owner) == ("done", 8, None, None)
    assert orders.take(database, "w3", LEASE_S) is None


def test_an_order_that_is_given_back_is_free_at_once_with_nothing_against_it(database: Database) -> None:
    placed(database)
    orders.give_back(database, taken(database))
    assert taken(database).tries == 1
    orders.let_go_all(database, "w1", died=False)
    assert taken(database).tries == 1
    assert orders.get(database, "one").failures == 0


def test_an_order_that_is_put_off_says_why_and_waits_its_time(database: Database) -> None:
    placed(database)
    orders.put_off(database, taken(database), "the hub is away", 300.0)
    assert orders.take(database, "w1", LEASE_S) is None
    row = orders.get(database, "one")
    assert (row.state, row.reason, row.failures) == ("waiting", "the hub is away", 0)
    set_order(database, not_before=db_now() - 1)
    assert taken(database).sender_id == "one"


def test_an_order_of_which_its_readers_die_is_refused(
    database: Database,
) -> None:
    placed(database)
    for death in range(1, orders.MOST_FAILURES + 1):
        assert orders.get(database, "one").finished_at is None
        taken(database, "w1")
        orders.let_go_all(database, "somebody else", died=True)
        orders.let_go_all(database, "w1", died=True)
        assert orders.get(database, "one").failures == death
    row = orders.get(database, "one")
    assert row.state == "refused"
    assert "the process that read its source died, 3 times" in (row.reason or "")
    assert orders.take(database, "w1", LEASE_S) is None


def test_an_order_that_fails_in_a_way_that_nobody_foresaw_is_refused_after_some_tries(database: Database) -> None:
    placed(database)
    for _ in range(orders.MOST_FAILURES):
        orders.put_off(database, taken(database), "KeyError in the worker", -1.0, failed=True)
    row = orders.get(database, "one")
    assert (row.state, row.reason) == ("refused", "KeyError in the worker")


def test_outages_are_no_failures_of_an_order(database: Database) -> None:
    placed(database)
    for n in range(1, orders.MOST_FAILURES + 3):
        assert taken(database).tries == n
        lapse(database)
    assert orders.get(database, "one").failures == 0


def test_a_cancelled_order_is_taken_from_its_reader(database: Database) -> None:
    placed(database)
    order = taken(database)
    assert orders.cancel(database, "one").state == "reading"
    assert not orders.renew(database, order, LEASE_S)
    assert not orders.end(database, order, "done", job_id=1)
    assert orders.get(database, "one").state == "cancelled"
    assert orders.cancel(database, "one").state == "cancelled"
    with pytest.raises(NoSuchOrder, match="there is no order nobody's"):
        orders.cancel(database, "nobody's")


def test_how_far_an_orders_job_was_read_is_known(database: Database) -> None:
    placed(database)
    job = read(database, request("a.jsonl"), numbered(3), chunk=1, stop_after=1)
    order = taken(database)
    assert orders.note_job(database, order, job.id)
    assert orders.standing(database, order) == "reading"
    read(database, request("a.jsonl"), numbered(3))
    assert orders.standing(database, order) == "read"
    jobs.cancel(database, job.id)
    assert orders.standing(database, order) == "cancelled"
    removal.remove_corpus(database, "books")
    assert orders.standing(database, order) is None


def test_a_job_that_was_read_for_another_is_to_be_read_again_for_an_order(database: Database) -> None:
    job = read(database, request("a.jsonl"), numbered(3))
    placed(database)
    order = taken(database)
    assert orders.note_job(database, order, job.id)
    assert orders.standing(database, order) == "reading"
    read(database, request("a.jsonl"), numbered(4))
    assert orders.standing(database, order) == "read"


def test_what_ended_long_ago_is_forgotten_as_new_ones_come_and_what_is_open_is_not(database: Database) -> None:
    for name in ("old", "recent", "open"):
        placed(database, name)
    for name, days in (("old", 31), ("recent", 29)):
        ended = {"state": "done", "finished_at": db_now() - days * 86_400}
        which = update(EnqueueOrder).where(EnqueueOrder.sender_id == name)
        database.write(lambda transaction, which=which, ended=ended: transaction.execute(which.values(**ended)))  # type: ignore[misc]
    set_order(database, created_at=db_now() - 60 * 86_400)
    assert orders.place(database, "new", ASKED, kept_s=30 * 86_400.0)
    assert [row.sender_id for row in orders.latest(database, 10)] == ["new", "open", "recent"]
    assert orders.n_open(database) == 2
