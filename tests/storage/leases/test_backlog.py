"""The cost of a backlog depends on the shards in flight and not on those that wait. It is counted in steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import insert, select, text

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Shard
from docmill.storage.leases import dispatch, maintenance
from docmill.storage.steps import jobs
from docmill.storage.steps.jobs import OpenJob
from tests.kinds import KINDS
from tests.storage.builders import claim_next, claim_shard, numbered, read, request
from tests.storage.leases.test_dispatch import sign_on

SMALL, HUGE = 100, 10_000


def backlog(database: Database, corpus: str, n: int) -> OpenJob:
    """A job with n planned shards more than it was read with."""
    job = read(database, request(corpus=corpus), numbered(3))

    def fill(transaction) -> None:  # type: ignore[no-untyped-def]
        columns = [column for column in Shard.__table__.columns if column.name != "id"]
        one = transaction.execute(select(*columns).where(Shard.job_id == job.id).limit(1)).one()
        row = {column.name: value for column, value in zip(columns, one, strict=True)}
        transaction.execute(insert(Shard), [row] * n)

    database.write(fill)
    return job


def count_open(database: Database, at_most: int) -> int:
    """Count the open shards as the autoscaler of the Helm chart does."""
    with database.read() as transaction:
        found = transaction.scalar(
            text(f"SELECT count(*) FROM (SELECT 1 FROM open_shards WHERE lane IN ('copy') LIMIT {at_most}) AS open")
        )
    assert found == at_most
    return at_most


def steps(database: Database, act: Callable[[], object]) -> int:
    """Return the thousands of instructions that SQLite's virtual machine runs for an act."""
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 1
        return 0

    connections = [database.engine.raw_connection() for _ in range(4)]
    for connection in connections:
        connection.driver_connection.set_progress_handler(count, 1_000)  # type: ignore[union-attr]
        connection.close()
    act()
    for _ in connections:
        connection = database.engine.raw_connection()
        connection.driver_connection.set_progress_handler(None, 0)  # type: ignore[union-attr]
        connection.close()
    return counted


@pytest.mark.parametrize(
    "act",
    [
        lambda database, job: [dispatch.take(database, lane) for lane in dispatch.lanes(database)],
        lambda database, job: [
            claim_shard(database, shard_id)
            for lane in dispatch.lanes(database)
            for shard_id in dispatch.take(database, lane)
        ],
        lambda database, job: maintenance.reclaim(database),
        lambda database, job: maintenance.reclaim(database, "w1"),
        lambda database, job: maintenance.lost_hints(database, "copy", queue_is_empty=False, grace_s=0),
        lambda database, job: jobs.finish(database),
        lambda database, job: jobs.pause(database, job.id),
        lambda database, job: jobs.cancel(database, job.id),
        lambda database, job: count_open(database, at_most=64),
    ],
    ids=["take", "claim", "reclaim", "reclaim of a process", "lost hints", "finish", "pause", "cancel", "open"],
)
def test_a_huge_backlog_costs_no_more_than_a_small_one(
    sqlite_url: str, act: Callable[[Database, OpenJob], object]
) -> None:
    database = Database(sqlite_url, kinds=KINDS)
    sign_on(database, "w1")
    small = backlog(database, "small", SMALL)
    claim_next(database)
    cost = steps(database, lambda: act(database, small))
    jobs.cancel(database, small.id)
    huge = backlog(database, "huge", HUGE)
    claim_next(database)
    assert steps(database, lambda: act(database, huge)) <= cost + 4
    database.close()
