"""Folding replaces the finished shards of an ended job by one row for each step, and keeps every count."""

from __future__ import annotations

from dataclasses import replace

import pytest

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
from tests.storage.builders import count_rows, numbered, shards_of
from tests.storage.fleet import Fleet, pipeline

AGE_S = 30 * DAY_S


def leave_out_shards(status: JobStatus) -> JobStatus:
    """Return a status without the values that folding changes. The pace of retried shards includes their wait."""
    return replace(status, shards={}, swept=(), elapsed_s=0.0, time_left=TimeLeft())


def list_shards(database: Database, job_id: int) -> list[tuple[int, int]]:
    """Return the step of each shard, and the bytes of its contents."""
    return sorted((row.step, len(row.contents)) for row in shards_of(database, job_id))


def test_folding_changes_neither_the_counts_nor_the_results_of_a_job_even_between_two_pages(
    database: Database, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "FOLDED_PAGE", 2)
    fleet.fails = lambda kind, text: kind == "summarize" and text.endswith("7)")
    job_id = fleet.run_job(pipeline(), numbered(300)).id  # four steps with several shards each
    results_before = list(results(database, job_id))
    assert retention.fold_shards(database, AGE_S).rows == 0, "it ended just now"
    days_pass(database, 31)
    before = read_status(database, job_id)
    shards = count_rows(database, Shard)
    ticks = iter(range(100))
    budget = RemovalBudget(until=3.0, clock=lambda: float(next(ticks)))
    first = retention.fold_shards(database, AGE_S, budget).rows
    assert 0 < first < shards - 4
    assert leave_out_shards(read_status(database, job_id)) == leave_out_shards(before), "a page is one transaction"
    second = retention.fold_shards(database, AGE_S, RemovalBudget.of(rows=1)).rows
    assert second >= 1
    assert retention.fold_shards(database, AGE_S).rows == shards - 4 - first - second
    after = read_status(database, job_id)
    assert leave_out_shards(after) == leave_out_shards(before)
    assert after.shards == {"done": 4}
    assert after.swept == ("shards",)
    assert list_shards(database, job_id) == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert repr(list(results(database, job_id))) == repr(results_before)
    assert list(finished_shards(database, job_id)) == [], "there are no single shards for a chart"
    assert retention.fold_shards(database, AGE_S).rows == 0, "a second time changes nothing"


def test_a_folded_job_can_be_retried_and_is_folded_again(database: Database, fleet: Fleet) -> None:
    fleet.fails = lambda kind, text: kind == "embed" and text.endswith("3")
    job_id = fleet.run_job(pipeline(), numbered(20)).id
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
    assert leave_out_shards(read_status(database, job_id)).done == status.done
    assert len(list_shards(database, job_id)) == 4
