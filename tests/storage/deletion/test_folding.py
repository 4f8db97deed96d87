"""Folding: the finished shards of ended jobs become one row for each step, and every count stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Shard
from docmill.storage.deletion import retention
from docmill.storage.deletion.paging import RemovalBudget
from docmill.storage.results.job_counts import finished_shards
from docmill.storage.results.results import results
from docmill.storage.results.status import JobStatus, read_status
from docmill.storage.results.time_left import TimeLeft
from docmill.storage.steps import jobs
from tests.storage.aging import DAY_S, days_pass
from tests.storage.builders import count_rows, numbered
from tests.storage.steps.test_steps import Fleet, pipeline

AGE_S = 30 * DAY_S


def counts(status: JobStatus) -> JobStatus:
    """Return a status without what folding changes: the pace of shards that waited for a retry counts the wait."""
    return replace(status, shards={}, swept=(), elapsed_s=0.0, time_left=TimeLeft())


def per_step(database: Database, job_id: int) -> list[tuple[int, int]]:
    """Return (step, bytes of contents) of each shard."""
    with database.read() as transaction:
        rows = transaction.execute(select(Shard.step, Shard.contents).where(Shard.job_id == job_id))
        return sorted((row.step, len(row.contents)) for row in rows)


def test_every_count_of_a_job_stays_and_its_results_do(database: Database, fleet: Fleet) -> None:
    fleet.fails = lambda kind, text: kind == "summarize" and text.endswith("7)")
    job_id = fleet.done(pipeline(), numbered(300)).id  # four steps with several shards each
    before, found = read_status(database, job_id), list(results(database, job_id))
    assert retention.fold_shards(database, AGE_S).rows == 0, "it ended just now"
    days_pass(database, 31)
    before = read_status(database, job_id)
    shards = count_rows(database, Shard)
    assert shards > 4
    assert retention.fold_shards(database, AGE_S).rows == shards - 4
    after = read_status(database, job_id)
    assert counts(after) == counts(before)
    assert after.shards == {"done": 4}
    assert after.swept == ("shards",)
    assert per_step(database, job_id) == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert repr(list(results(database, job_id))) == repr(found)
    assert list(finished_shards(database, job_id)) == [], "a chart has no single shards"
    assert retention.fold_shards(database, AGE_S).rows == 0, "twice is once"


def test_a_folded_job_can_be_retried_and_is_folded_again(database: Database, fleet: Fleet) -> None:
    fleet.fails = lambda kind, text: kind == "embed" and text.endswith("3")
    job_id = fleet.done(pipeline(), numbered(20)).id
    days_pass(database, 31)
    retention.fold_shards(database, AGE_S)
    failed = read_status(database, job_id).failed
    assert failed > 0
    fleet.fails = lambda kind, text: False
    assert jobs.retry(database, job_id) == failed
    assert retention.fold_shards(database, 0.0).rows == 0, "it runs again"
    fleet.finish()
    status = read_status(database, job_id)
    assert (status.failed, status.pending) == (0, 0)
    days_pass(database, 31)
    assert retention.fold_shards(database, AGE_S).rows > 0
    assert counts(read_status(database, job_id)).done == status.done
    assert len(per_step(database, job_id)) == 4


def test_a_budget_ends_it_between_two_pages_and_the_next_call_goes_on(
    database: Database, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "FOLDED_PAGE", 2)
    job_id = fleet.done(pipeline(), numbered(300)).id  # four steps with several shards each
    days_pass(database, 31)
    before, shards = counts(read_status(database, job_id)), count_rows(database, Shard)
    ticks = iter(range(100))
    budget = RemovalBudget(until=3.0, clock=lambda: float(next(ticks)))
    first = retention.fold_shards(database, AGE_S, budget).rows
    assert 0 < first < shards - 4
    assert counts(read_status(database, job_id)) == before, "a page is whole"
    assert retention.fold_shards(database, AGE_S, RemovalBudget.of(rows=1)).rows >= 1
    retention.fold_shards(database, AGE_S)
    assert counts(read_status(database, job_id)) == before
    assert count_rows(database, Shard) == 4
