"""Kept counts equal the rows that they count, whatever happens to these."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from sqlalchemy import delete, select, text, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Job, OutcomeRow, Shard, ShardCount, WorkCount, db_now
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion import gc, removal
from docmill.storage.leases import maintenance, shards
from docmill.storage.results import counts
from docmill.storage.results.counts import read_work
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
    set_shard,
    shards_of,
    work,
)
from tests.storage.invariants import assert_invariants
from tests.storage.ledger import assert_exported
from tests.storage.results.test_fleet import copy_lane

LANES = ("copy",)


def test_work_of_every_kind_is_counted_as_it_is_stored(database: Database) -> None:
    read(database, request(), numbered(5), chunk=2)
    assert_exported(database, LANES)
    claim = claim_next(database)
    assert_exported(database, LANES)
    shards.commit(database, claim, flagged(claim), None)
    finish(database, failed)
    assert_exported(database, LANES)
    with database.read() as transaction:
        found = read_work(transaction)
    assert found.flags == {("copy", "empty"): len(claim.texts), ("copy", "repetition"): len(claim.texts)}
    assert found.failures == {("copy", "document"): 5 - len(claim.texts)}
    assert found.records["new"] == 5
    assert found.tokens_in == {("copy", COPY.model): 3 * len(claim.texts)}


def test_a_failure_that_a_retry_mends_is_counted_no_more(database: Database) -> None:
    job = read(database, request(), numbered(3))
    finish(database, failed)
    jobs.retry(database, job.id)
    work(database, flagged)
    assert_exported(database, LANES)
    with database.read() as transaction:
        found = read_work(transaction)
    assert sum(found.failures.values()) == 0
    assert found.texts == {("copy", "done"): 3, ("copy", "failed"): 3}


def test_released_split_lapsed_and_taken_away_shards_are_counted_right(database: Database) -> None:
    first = read_and_claim(database, 8)
    shards.release(database, first, done(first)[:2])
    assert_exported(database, LANES)
    lapse(database, claim_next(database).shard_id)
    maintenance.reclaim(database)
    assert_exported(database, LANES)
    for _ in range(2):  # alone and dead again, so it is split
        claim_next(database, "w2")
        maintenance.reclaim(database, "w2")
        assert_exported(database, LANES)
    fleet = read_fleet(database, LANES)
    assert fleet.lanes[0].suspects > 1
    assert fleet.work.lapses == {"copy": 1}
    claim_next(database)
    jobs.pause(database, 1)
    assert_exported(database, LANES)
    assert copy_lane(database).open == 0


def test_counts_of_work_outlive_its_rows_and_those_of_shards_do_not(database: Database) -> None:
    read(database, request(), numbered(4))
    finish(database, flagged)
    gc.drop(database)
    removal.remove_corpus(database, "books")
    gc.collect(database)
    database.execute(delete(OutcomeRow))
    assert_invariants(database, "kept_shards")
    with database.read() as transaction:
        found = read_work(transaction)
    assert found.texts == {("copy", "done"): 4}
    assert sum(found.flags.values()) == 0


def touch(database: Database, shard_ids: Sequence[int]) -> None:
    for state in ("queued", "planned") * 4:
        for shard_id in shard_ids:
            set_shard(database, shard_id, state=state)


def test_writers_at_once_lose_no_count(database: Database) -> None:
    read(database, request(), numbered(40), chunk=1)
    rows = [row.id for row in shards_of(database, 1)]
    at_once(lambda: touch(database, rows[::2]), lambda: touch(database, rows[1::2]))
    assert_invariants(database, "kept_shards")
    assert count_rows(database, ShardCount) < 600, "rows are merged as they become many"


def test_the_age_of_the_first_shard_in_the_queue_is_told(database: Database) -> None:
    claim = read_and_claim(database, 2)
    shards.release(database, claim)
    assert copy_lane(database).oldest_queued_s is None
    waits = update(Shard).values(state="queued", dispatched_at=db_now() - 90)
    database.execute(waits)
    assert (copy_lane(database).oldest_queued_s or 0) >= 90
    database.execute(update(Job).values(paused=True))
    assert copy_lane(database).oldest_queued_s is None


def filled(database: Database, jobs: int = 3) -> Database:
    """Jobs with done, failed, flagged and open texts."""
    for number in range(jobs):
        texts = [(f"k{place}", f"text {place} of {number}") for place in range(6)]
        read(database, request(f"{number}.jsonl", corpus=f"corpus {number}"), texts, chunk=2)
        for outcomes in (flagged, failed):
            commit_next(database, outcomes)
    return database


def doubled(database: Database) -> None:
    """Add what is counted to the counts, as triggers do when rows are copied into a schema that is there."""

    def double(transaction: Transaction) -> None:
        for table, columns in ((ShardCount, ("n", "n_suspect")), (WorkCount, ("n",))):
            changed = ", ".join(f"{name} = 2 * {name}" for name in columns)
            only = "" if table is ShardCount else "WHERE name IN ('failures', 'flags')"
            transaction.execute(text(f"UPDATE {table.__tablename__} SET {changed} {only}"))

    database.write(double)


def test_counts_that_were_doubled_are_as_they_were(database: Database) -> None:
    filled(database)
    doubled(database)
    with pytest.raises(AssertionError):
        assert_invariants(database, "kept_shards")
    corrected = counts.recount(database)
    assert corrected["shards"] >= 3
    assert corrected["outcomes"] == 3  # failures, and two flags
    assert_exported(database, LANES)
    work(database, flagged)
    assert_exported(database, LANES)


def test_writers_go_on_meanwhile_and_two_corrections_at_once_are_one(database: Database) -> None:
    filled(database)
    read(database, request("more.jsonl"), numbered(20), chunk=1)
    rows = database.values(select(Shard.id).where(Shard.state == "planned"))
    doubled(database)
    at_once(lambda: touch(database, rows), *[lambda: counts.recount(database)] * 2)
    assert_exported(database, LANES)
