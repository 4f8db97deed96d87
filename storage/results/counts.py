"""Read and correct the kept counts of shards and of work (`storage.core.schema`).

Reading them costs the same for any backlog. Triggers keep them right. Failures and flags are wrong after a restore
that copied rows into a schema whose triggers counted them again, or after rows changed while triggers were off.
Counts of work that was done cannot be rebuilt: they outlive their rows.

A correction is the difference between rows and kept counts, read by one statement and added to the kept counts. So
writers go on meanwhile, and a second call corrects nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import and_, func, insert, or_, select, update

from docmill.storage.core.database import Database
from docmill.storage.core.invariants import find_broken
from docmill.storage.core.schema import SHARD_KEY, AnyRow, Job, ShardCount, WorkCount
from docmill.storage.core.transaction import Transaction
from docmill.storage.steps.budgets import AT_LIMIT
from docmill.storage.steps.jobs import RUNS
from docmill.storage.steps.sharding import OPEN_SHARDS

LaneLabel = tuple[str, str]  # a lane, and a status, model, reason or flag


@dataclass(frozen=True)
class StoreTotals:
    """The work of the store since it was made. Lanes are kinds of tasks.

    `failures` (by class of reason) and `flags` are those of the stored outcomes: they fall when a retry succeeds, and
    when results are removed. The others only grow.
    """

    texts: Mapping[LaneLabel, int]  # by status
    tokens_in: Mapping[LaneLabel, int]  # by model
    tokens_out: Mapping[LaneLabel, int]
    commits: Mapping[str, int]  # shards that ended
    lapses: Mapping[str, int]
    failures: Mapping[LaneLabel, int]
    flags: Mapping[LaneLabel, int]
    records: Mapping[str, int]  # read from sources, by result: new, changed, unchanged, repeated or rejected


def count_open_shards(transaction: Transaction) -> Sequence[AnyRow]:
    """Return rows with the number `n` of open shards of running jobs, by `lane` and `state`.

    `suspects` of them may kill their process. `created_at` is the time when the oldest job with such shards was made.
    """
    sums = (func.sum(ShardCount.n).label("n"), func.sum(ShardCount.n_suspect).label("suspects"))
    of_job = (
        select(ShardCount.lane, ShardCount.state, Job.created_at, *sums)
        .join(Job, Job.id == ShardCount.job_id)
        .where(RUNS, ShardCount.state.in_(OPEN_SHARDS), or_(ShardCount.state == "running", ~AT_LIMIT))
        .group_by(Job.id, Job.created_at, ShardCount.lane, ShardCount.state)
        .having(func.sum(ShardCount.n) != 0)
    ).subquery()
    lane, state, created_at, n, suspects = of_job.c
    sums = (func.sum(n).label("n"), func.sum(suspects).label("suspects"))
    query = select(lane, state, *sums, func.min(created_at).label("created_at"))
    return transaction.execute(query.group_by(lane, state)).all()


def read_work(transaction: Transaction) -> StoreTotals:
    """Return the work of the store."""
    rows = transaction.execute(
        select(WorkCount.name, WorkCount.lane, WorkCount.label, func.sum(WorkCount.n).label("n")).group_by(
            WorkCount.name, WorkCount.lane, WorkCount.label
        )
    ).all()
    by_name: dict[str, dict[LaneLabel, int]] = {}
    for row in rows:
        by_name.setdefault(row.name, {})[row.lane, row.label] = int(row.n)

    def of(name: str) -> dict[LaneLabel, int]:
        return by_name.get(name, {})

    return StoreTotals(
        texts=of("texts"),
        tokens_in=of("tokens_in"),
        tokens_out=of("tokens_out"),
        commits={lane: n for (lane, _), n in of("commits").items()},
        lapses={lane: n for (lane, _), n in of("lapses").items()},
        failures=of("failures"),
        flags=of("flags"),
        records={label: n for (_, label), n in of("records").items()},
    )


def recount(database: Database) -> dict[str, int]:
    """Correct the kept counts. Return how many were wrong for `shards` and for `outcomes` (failures and flags)."""
    by_job = partial(_correct, invariant="kept_shards", table=ShardCount, key=SHARD_KEY)
    by_lane = partial(_correct, invariant="kept_outcomes", table=WorkCount, key=("name", "lane", "label"))
    return {"shards": database.write(by_job), "outcomes": database.write(by_lane)}


def _correct(
    transaction: Transaction, invariant: str, table: type[ShardCount | WorkCount], key: Sequence[str]
) -> int:
    """Add the differences in the rows that break an invariant to the kept counts. On SQLite a key has one row."""
    transaction.lock_counts()
    broken = find_broken(transaction, invariant)
    for row in broken:
        same = and_(*(getattr(table, name) == row[name] for name in key))
        grown = {name: getattr(table, name) + n for name, n in row.items() if name not in key}
        is_there = (
            transaction.server is None and transaction.execute(update(table).where(same).values(**grown)).rowcount
        )
        if not is_there:
            transaction.execute(insert(table).values(**row))
    return len(broken)
