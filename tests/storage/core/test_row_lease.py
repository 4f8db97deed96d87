"""Leases on rows: one holder at a time, and a fence that tells it from those before."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from docmill.storage.core import row_lease
from docmill.storage.core.database import Database
from docmill.storage.core.schema import PipelineRun
from docmill.storage.core.tables import db_now
from docmill.storage.pipelines import pipelines
from tests.storage.builders import at_once

LEASE_S = 60.0


@pytest.fixture
def row_id(database: Database) -> int:
    """A row that can be held."""
    pipelines.put(
        database, "nightly", "/x/nightly.toml", "name = 'nightly'", {"cron": "0 0 * * *", "overlap": "skip"}
    )
    run_id = pipelines.fire(database, pipelines.scheduled(database)[0], 100.0)
    assert run_id is not None
    return run_id


def take(database: Database, row_id: int, owner: str = "w1") -> int | None:
    return row_lease.take(database, PipelineRun, row_id, owner, LEASE_S)


def lapse(database: Database) -> None:
    lapsed = update(PipelineRun).values(lease_until=db_now() - 1.0)
    database.write(lambda transaction: transaction.execute(lapsed))


def row(database: Database) -> Any:
    with database.read() as transaction:
        return transaction.execute(select(PipelineRun, db_now().label("now"))).one()


def test_of_several_that_take_a_row_at_once_one_has_it(database: Database, row_id: int) -> None:
    fences = at_once(*[lambda: take(database, row_id)] * 4)
    assert sorted(fence is None for fence in fences) == [False, True, True, True]


def test_a_row_can_be_taken_under_a_condition_and_with_more_values(database: Database, row_id: int) -> None:
    of_state = {"where": PipelineRun.state == "running"}
    assert row_lease.take(database, PipelineRun, row_id, "w1", LEASE_S, **of_state) is None
    assert row_lease.take(database, PipelineRun, row_id, "w1", LEASE_S, state="reading") == 1
    assert (row(database).state, row(database).owner) == ("reading", "w1")


def test_a_lease_that_lapsed_is_renewed_until_another_has_taken_the_row(database: Database, row_id: int) -> None:
    fence = take(database, row_id)
    assert fence is not None
    lapse(database)
    assert row_lease.renew(database, PipelineRun, row_id, fence, LEASE_S)
    assert row(database).lease_until > row(database).now
    assert take(database, row_id, "w2") is None
    lapse(database)
    assert take(database, row_id, "w2") == fence + 1
    assert not row_lease.renew(database, PipelineRun, row_id, fence, LEASE_S)
    row_lease.let_go(database, PipelineRun, row_id, fence)
    assert take(database, row_id, "w3") is None, "the lease of the other is left as it is"


def test_a_lease_that_is_let_go_is_free_at_once(database: Database, row_id: int) -> None:
    fence = take(database, row_id)
    assert fence is not None
    row_lease.let_go(database, PipelineRun, row_id, fence)
    assert take(database, row_id, "w2") == fence + 1
    assert row_lease.let_go_all(database, PipelineRun, "w1") == 0
    assert row_lease.let_go_all(database, PipelineRun, "w2") == 1
    assert take(database, row_id, "w3") == fence + 2


def test_what_its_holder_is_done_with_is_renewed_no_more(database: Database, row_id: int) -> None:
    fence = take(database, row_id)
    assert fence is not None
    database.write(lambda transaction: transaction.execute(update(PipelineRun).values(**row_lease.FREE)))
    assert not row_lease.renew(database, PipelineRun, row_id, fence, LEASE_S)
    assert row(database).lease_until is None
