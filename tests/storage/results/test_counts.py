"""Kept counts equal the rows that they count, whatever happens to the rows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from sqlalchemy import delete, select, text

from docmill.storage.core.database import Database
from docmill.storage.core.schema import OutcomeRow, Shard, ShardCount, WorkCount
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion import gc, removal
from docmill.storage.leases import maintenance, shards
from docmill.storage.results import counts
from docmill.storage.results.counts import StoreTotals, read_work
from docmill.storage.results.fleet import read_fleet
from docmill.storage.steps import jobs
from tests.storage.builders import (
    COPY,
    at_once,
    claim_next,
    commit_next,
    count_rows,
    done,
    failed,
    finish,
    flagged,
    lapse,
    numbered,
    read,
    read_and_claim,
    request,
    run_job,
    set_shard,
    shards_of,
    work,
)
from tests.storage.invariants import assert_invariants
from tests.storage.ledger import assert_exported

LANES = ("copy",)


def read_counts(database: Database) -> StoreTotals:
    with database.read() as transaction:
        return read_work(transaction)


def test_work_of_every_kind_is_counted_as_it_is_stored(database: Database) -> None:
    read(database, request(), numbered(5), chunk=2)
    assert_exported(database, LANES)
    claim = claim_next(database)
    assert_exported(database, LANES)
    shards.commit(database, claim, flagged(claim), None)
    finish(database, failed)
    assert_exported(database, LANES)
    counted = read_counts(database)
    assert counted.flags == {("copy", "empty"): len(claim.texts), ("copy", "repetition"): len(claim.texts)}
    assert counted.failures == {("copy", "document"): 5 - len(claim.texts)}
    assert counted.records["new"] == 5
    assert counted.tokens_in == {("copy", COPY.model): 3 * len(claim.texts)}


def test_a_failure_that_a_retry_repaired_is_not_counted(database: Database) -> None:
    job = run_job(database, request(), numbered(3), failed)
    jobs.retry(database, job.id)
    work(database, flagged)
    assert_exported(database, LANES)
    counted = read_counts(database)
    assert sum(counted.failures.values()) == 0
    assert counted.texts == {("copy", "done"): 3, ("copy", "failed"): 3}


def test_released_split_lapsed_and_taken_away_shards_are_counted_right(database: Database) -> None:
    first = read_and_claim(database, 8)
    shards.release(database, first, done(first)[:2])
    assert_exported(database, LANES)
    lapse(database, claim_next(database).shard_id)
    maintenance.reclaim(database)
    assert_exported(database, LANES)
    for _ in range(2):  # it runs alone and its process dies again, so it is split
        claim_next(database, "w2")
        maintenance.reclaim(database, "w2")
        assert_exported(database, LANES)
    fleet = read_fleet(database, LANES)
    assert fleet.lanes[0].suspects > 1
    assert fleet.work.lapses == {"copy": 1}
    claim_next(database)
    jobs.pause(database, 1)
    assert_exported(database, LANES)
    assert read_fleet(database, LANES).lanes[0].open == 0


def test_counts_of_work_outlive_its_rows_and_those_of_shards_do_not(database: Database) -> None:
    run_job(database, request(), numbered(4), flagged)
    gc.drop(database)
    removal.remove_corpus(database, "books")
    gc.collect(database)
    database.execute(delete(OutcomeRow))
    assert_invariants(database, "kept_shards")
    counted = read_counts(database)
    assert counted.texts == {("copy", "done"): 4}
    assert sum(counted.flags.values()) == 0


def touch(database: Database, shard_ids: Sequence[int]) -> None:
    """Change the states of shards many times."""
    for state in ("queued", "planned") * 4:
        for shard_id in shard_ids:
            set_shard(database, shard_id, state=state)


def test_writers_at_once_lose_no_count(database: Database) -> None:
    read(database, request(), numbered(40), chunk=1)
    rows = [row.id for row in shards_of(database, 1)]
    at_once(lambda: touch(database, rows[::2]), lambda: touch(database, rows[1::2]))
    assert_invariants(database, "kept_shards")
    assert count_rows(database, ShardCount) < 600, "rows are merged as they become many"


def read_three_jobs(database: Database) -> None:
    """Read jobs with done, failed, flagged and open texts."""
    for number in range(3):
        texts = [(f"k{place}", f"text {place} of {number}") for place in range(6)]
        read(database, request(f"{number}.jsonl", corpus=f"corpus {number}"), texts, chunk=2)
        for outcomes in (flagged, failed):
            commit_next(database, outcomes)


def double_counts(database: Database) -> None:
    """Double the counts, as triggers do when rows are copied into a schema that exists."""

    def double(transaction: Transaction) -> None:
        for table, columns in ((ShardCount, ("n", "n_suspect")), (WorkCount, ("n",))):
            changed = ", ".join(f"{name} = 2 * {name}" for name in columns)
            only = "" if table is ShardCount else "WHERE name IN ('failures', 'flags')"
            transaction.execute(text(f"UPDATE {table.__tablename__} SET {changed} {only}"))

    database.write(double)


def test_doubled_counts_are_corrected(database: Database) -> None:
    read_three_jobs(database)
    double_counts(database)
    with pytest.raises(AssertionError):
        assert_invariants(database, "kept_shards")
    corrected = counts.recount(database)
    assert corrected["shards"] >= 3
    assert corrected["outcomes"] == 3  # failures, and two flags
    assert_exported(database, LANES)
    work(database, flagged)
    assert_exported(database, LANES)


def test_counts_are_corrected_beside_writers_and_another_correction(database: Database) -> None:
    read_three_jobs(database)
    read(database, request("more.jsonl"), numbered(20), chunk=1)
    rows = database.values(select(Shard.id).where(Shard.state == "planned"))
    double_counts(database)
    at_once(lambda: touch(database, rows), *[lambda: counts.recount(database)] * 2)
    assert_exported(database, LANES)
