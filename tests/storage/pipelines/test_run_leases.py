"""Leases of runs: one holder at a time, and a fence that tells it from those before."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import PipelineRun, db_now
from docmill.storage.pipelines import pipelines
from docmill.storage.pipelines.pipelines import Run
from tests.storage.builders import at_once

pytestmark = pytest.mark.both_stores
LEASE_S = 60.0


@pytest.fixture
def run_id(database: Database) -> int:
    """A run that can be taken."""
    schedule = {"cron": "0 0 * * *", "overlap": "skip"}
    pipelines.put(database, "nightly", "/x/nightly.toml", "name = 'nightly'", schedule)
    run_id = pipelines.fire(database, pipelines.scheduled(database)[0], 100.0)
    assert run_id is not None
    return run_id


def take(database: Database, run_id: int, owner: str = "w1") -> Run | None:
    return pipelines.take(database, run_id, owner, LEASE_S)


def lapse(database: Database) -> None:
    lapsed = update(PipelineRun).values(lease_until=db_now() - 1.0)
    database.write(lambda transaction: transaction.execute(lapsed))


def row(database: Database) -> Any:
    with database.read() as transaction:
        return transaction.execute(select(PipelineRun, db_now().label("now"))).one()


def test_of_several_that_take_a_run_at_once_one_has_it(database: Database, run_id: int) -> None:
    runs = at_once(*[lambda: take(database, run_id)] * 4)
    assert sorted(run is None for run in runs) == [False, True, True, True]


def test_a_lease_that_lapsed_is_renewed_until_another_has_taken_the_run(database: Database, run_id: int) -> None:
    first = take(database, run_id)
    assert first is not None
    lapse(database)
    assert pipelines.renew(database, first, LEASE_S)
    assert row(database).lease_until > row(database).now
    assert take(database, run_id, "w2") is None
    lapse(database)
    second = take(database, run_id, "w2")
    assert second is not None
    assert second.fence == first.fence + 1
    assert not pipelines.renew(database, first, LEASE_S)
    pipelines.let_go(database, first, at_once=False)
    assert take(database, run_id, "w3") is None, "the lease of the other is left as it is"


def test_a_lease_that_is_let_go_is_free_at_once(database: Database, run_id: int) -> None:
    first = take(database, run_id)
    assert first is not None
    pipelines.let_go(database, first, at_once=False)
    assert take(database, run_id, "w2") is not None
    pipelines.let_go_all(database, "w1")
    assert take(database, run_id, "w3") is None, "the lease is not that of w1 any more"
    pipelines.let_go_all(database, "w2")
    assert take(database, run_id, "w3") is not None


def test_a_run_that_its_holder_is_done_with_is_renewed_no_more(database: Database, run_id: int) -> None:
    run = take(database, run_id)
    assert run is not None
    assert pipelines.note(database, run, "done")
    assert not pipelines.renew(database, run, LEASE_S)
    assert row(database).lease_until is None
