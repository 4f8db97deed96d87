"""The clock of the database steps by an hour: no worker loses a shard, and none waits for an hour."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select, update

from docmill.storage.core.schema import Lease, PipelineRow, PipelineRun, Refusal, Shard, Worker, db_now
from docmill.storage.leases import dispatch, maintenance
from docmill.storage.pipelines import pipelines
from tests.faults.fleet import LEASE_S, SHARD_TEXTS, Fleet, numbered
from tests.faults.test_runs import HOURLY, STEPS
from tests.storage.aging import step_clock
from tests.storage.builders import sign_on
from tests.worker.harness import until

HOUR_S = 3600.0
# These are compared with the database's clock.
TIMES: tuple[Any, ...] = (
    *(Shard.lease_until, Shard.not_before, PipelineRun.lease_until, PipelineRun.handed_at, PipelineRow.looked_at),
    *(Lease.until, Worker.seen_at, Worker.consumed_at, Refusal.refused_at),
)


def step(fleet: Fleet, by_s: float) -> None:
    """Step the clock. Holders know their claims by `started_at`, which a real step leaves as it is in the rows."""
    step_clock(fleet.database, by_s, "started_at")


def test_a_clock_that_steps_back_and_forth_takes_no_shard_from_its_holder(fleet: Fleet) -> None:
    job = fleet.give(numbered(10 * SHARD_TEXTS), model="null@1000")
    with fleet.worker(lease_s=60):  # which a busy machine renews in time
        for by_s in (HOUR_S, -HOUR_S, -HOUR_S, HOUR_S):
            until(lambda: fleet.states()["running"], "shards run")
            step(fleet, by_s)
            n_done = fleet.states()["done"]
            until(lambda n_done=n_done: fleet.states()["done"] > n_done, "work goes on")  # type: ignore[misc]
        fleet.finish(job)
    shards = fleet.shards(Shard.attempt, Shard.lapses, Shard.suspect)
    assert {(row.attempt, row.lapses, row.suspect) for row in shards} == {(1, 0, 0)}


@pytest.mark.both_stores
def test_no_time_stays_ahead_of_a_clock_that_steps_back(fleet: Fleet) -> None:
    fleet.give(numbered(1))
    pipelines.put(fleet.database, "nightly", "nightly.toml", STEPS, HOURLY)
    pipelines.fire(fleet.database, pipelines.scheduled(fleet.database)[0], 1.0)
    maintenance.contact(fleet.database, LEASE_S)
    assert maintenance.hold(fleet.database, "upkeep", "one", 1.0)
    sign_on(fleet.database, "w1")
    dispatch.refuse(fleet.database, "w1", fleet.shards()[0].spec_id, "cannot serve it")
    for column in TIMES:
        fleet.database.execute(update(column.table).values({column: db_now()}))
    step(fleet, -HOUR_S)
    maintenance.contact(fleet.database, LEASE_S)
    for column in TIMES:
        ahead_s = fleet.database.value(select(func.max(column - db_now())))
        assert ahead_s is not None, column
        assert ahead_s <= LEASE_S, column
