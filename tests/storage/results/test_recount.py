"""Counts that went wrong are corrected from the rows, beside writers too, and right ones are left alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import delete, insert, text

from docmill.storage.core.database import Database
from docmill.storage.core.outcomes import Outcome
from docmill.storage.core.schema import ShardCount, WorkCount
from docmill.storage.core.transaction import Transaction
from docmill.storage.leases import shards
from docmill.storage.leases.shards import Claim
from docmill.storage.results import recount
from docmill.storage.results.counts import read_work
from docmill.storage.results.recount import Corrected
from tests.storage.builders import at_once, claim_next, done, failed, numbered, read, request, set_shard, work
from tests.storage.ledger import assert_exported, assert_kept

LANES = ("copy",)


def flagged(claim: Claim) -> list[Outcome]:
    return [replace(one, flags=("repetition", "empty")) for one in done(claim)]


def filled(database: Database, jobs: int = 3) -> Database:
    """Jobs with done, failed, flagged and open texts."""
    for number in range(jobs):
        texts = [(f"k{place}", f"text {place} of {number}") for place in range(6)]
        read(database, request(f"{number}.jsonl", corpus=f"corpus {number}"), texts, chunk=2)
        for outcomes in (flagged, failed):
            claim = claim_next(database)
            shards.commit(database, claim, outcomes(claim), None)
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
        assert_kept(database)
    corrected = recount.recount(database)
    assert corrected.shards >= 3
    assert corrected.outcomes == 3  # failures, and two flags
    assert_exported(database, LANES)
    work(database, flagged)
    assert_exported(database, LANES)


def test_right_counts_are_left_alone(database: Database) -> None:
    filled(database)
    assert recount.recount(database) == Corrected(0, 0)
    doubled(database)
    recount.recount(database)
    assert recount.recount(database) == Corrected(0, 0)
    assert_exported(database, LANES)


def test_lost_counts_are_made_and_those_of_finished_work_stay_as_they_are(database: Database) -> None:
    filled(database)
    with database.read() as transaction:
        before = read_work(transaction)

    def lose(transaction: Transaction) -> None:
        transaction.execute(delete(ShardCount))
        transaction.execute(delete(WorkCount).where(WorkCount.name.in_(("failures", "flags"))))

    database.write(lose)
    recount.recount(database)
    assert_exported(database, LANES)
    with database.read() as transaction:
        assert read_work(transaction) == before


def test_counts_without_rows_go_page_by_page(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recount, "PAGE", 2)
    filled(database)
    gone = [stray(job_id) for job_id in (10, 11, 12, 99)]
    flags = {"name": "flags", "lane": "no kind", "label": "gone", "n": 3}

    def add(transaction: Transaction) -> None:
        transaction.execute(insert(ShardCount), gone)
        transaction.execute(insert(WorkCount).values(**flags))

    database.write(add)
    doubled(database)
    corrected = recount.recount(database)
    assert corrected.shards >= 4 + 3
    assert corrected.outcomes == 3 + 1
    assert_exported(database, LANES)


def stray(job_id: int) -> dict[str, Any]:
    return {"job_id": job_id, "lane": "copy", "state": "done", "n": 4, "n_suspect": 1}


def test_writers_go_on_meanwhile_and_two_corrections_at_once_are_one(database: Database) -> None:
    filled(database)
    read(database, request("more.jsonl"), numbered(20), chunk=1)
    with database.read() as transaction:
        rows = transaction.scalars(text("SELECT id FROM shard WHERE state = 'planned' ORDER BY id")).all()
    doubled(database)

    def touch() -> None:
        for state in ("queued", "planned") * 4:
            for shard_id in rows:
                set_shard(database, shard_id, state=state)

    def correct() -> None:
        recount.recount(database)

    at_once(touch, correct, correct)
    assert_exported(database, LANES)
