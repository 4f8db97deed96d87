"""Read and correct the kept counts of shards and of work (`storage.core.schema`).

Reading them costs the same for any backlog. Triggers keep them right. Failures and flags are wrong after a restore
that copied rows into a schema whose triggers counted them again, or after rows changed while triggers were off.
Counts of work that was done cannot be rebuilt: they outlive their rows.

A correction is the difference between rows and kept counts, read by one statement and added to the kept counts. So
writers go on meanwhile, and a second call corrects nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Text,
    and_,
    case,
    cast,
    func,
    insert,
    literal,
    or_,
    select,
    union,
    union_all,
    update,
)

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Job, OutcomeRow, Shard, ShardCount, SpecRow, WorkCount
from docmill.storage.core.transaction import Transaction
from docmill.storage.steps.choosing import as_text
from docmill.storage.steps.jobs import RUNS
from docmill.storage.steps.sharding import OPEN_SHARDS

# As the partial indexes of the table say it. A parameter in the place of the text would hide the index.
NOT_DONE: ColumnElement[bool] = OutcomeRow.status != literal("done", Text, literal_execute=True)
FLAGGED: ColumnElement[bool] = cast(OutcomeRow.flags, Text) != literal("[]", Text, literal_execute=True)

LaneLabel = tuple[str, str]  # a lane, and a status, model, reason or flag


@dataclass(frozen=True)
class OpenShards:
    """The open shards of a job in a lane, by state. `suspects` are those that may kill their process."""

    job_id: int
    created_at: float
    lane: str
    states: Mapping[str, int]
    suspects: int


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
    records: Mapping[str, int]  # read from sources, by what the reading made of them


def open_shards(transaction: Transaction) -> list[OpenShards]:
    """Return the open shards of the jobs that run, by job and lane."""
    rows = transaction.execute(
        select(
            ShardCount.job_id,
            Job.created_at,
            ShardCount.lane,
            ShardCount.state,
            func.sum(ShardCount.n).label("shards"),
            func.sum(ShardCount.n_suspect).label("suspects"),
        )
        .join(Job, Job.id == ShardCount.job_id)
        .where(RUNS, ShardCount.state.in_(OPEN_SHARDS))
        .group_by(ShardCount.job_id, Job.created_at, ShardCount.lane, ShardCount.state)
        .order_by(ShardCount.job_id, ShardCount.lane)
    ).all()
    by_key: dict[tuple[int, str], OpenShards] = {}
    for row in rows:
        before = by_key.get((row.job_id, row.lane))
        states = {**(before.states if before else {}), row.state: int(row.shards)}
        suspects = int(row.suspects) + (before.suspects if before else 0)
        by_key[row.job_id, row.lane] = OpenShards(row.job_id, row.created_at, row.lane, states, suspects)
    return [shards for shards in by_key.values() if any(shards.states.values())]


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


PAGE = 500  # jobs whose shards are counted in one transaction
_OF_OUTCOMES = ("failures", "flags")
_LISTS = "lists of flags"


@dataclass(frozen=True)
class Corrected:
    """The numbers of kept counts that were wrong: of shards, and of failures and flags."""

    shards: int
    outcomes: int


def recount(database: Database) -> Corrected:
    """Correct the kept counts of shards, failures and flags, and return how many were wrong.

    A transaction counts the shards of a page of jobs, or the failures and flags of one kind of task.
    """
    shards, last = 0, 0
    while job_ids := _jobs_after(database, last):
        shards += database.write(partial(_correct_shards, first=job_ids[0], last=job_ids[-1]))
        last = job_ids[-1]
    return Corrected(shards, sum(database.write(partial(_correct_outcomes, lane=lane)) for lane in _lanes(database)))


def _jobs_after(database: Database, last: int) -> Sequence[int]:
    """Return the next page of jobs, and of removed jobs that still have counts."""
    jobs = union(
        select(Job.id).where(Job.id > last).order_by(Job.id).limit(PAGE).subquery().select(),
        select(ShardCount.job_id)
        .where(ShardCount.job_id > last)
        .distinct()
        .order_by(ShardCount.job_id)
        .limit(PAGE)
        .subquery()
        .select(),
    ).subquery()
    number = jobs.c[0]
    with database.read() as transaction:
        return transaction.scalars(select(number).order_by(number).limit(PAGE)).all()


def _lanes(database: Database) -> Sequence[str]:
    counted = select(WorkCount.lane).where(WorkCount.name.in_(_OF_OUTCOMES))
    with database.read() as transaction:
        return transaction.scalars(union(select(SpecRow.kind), counted)).all()


def _correct_shards(transaction: Transaction, first: int, last: int) -> int:
    transaction.lock_counts()
    rows = (
        select(
            *(Shard.job_id, Shard.lane, Shard.state, func.count().label("n")),
            func.sum(case((Shard.suspect > 0, 1), else_=0)).label("n_suspect"),
        )
        .where(Shard.job_id.between(first, last))
        .group_by(Shard.job_id, Shard.lane, Shard.state)
    )
    kept = select(ShardCount.job_id, ShardCount.lane, ShardCount.state, -ShardCount.n, -ShardCount.n_suspect).where(
        ShardCount.job_id.between(first, last)
    )
    both = union_all(rows, kept).subquery()
    key, n, n_suspect = (both.c.job_id, both.c.lane, both.c.state), func.sum(both.c.n), func.sum(both.c.n_suspect)
    wrong = (
        select(*key, n.label("n"), n_suspect.label("n_suspect")).group_by(*key).having(or_(n != 0, n_suspect != 0))
    )
    differences = [
        {name: _plain(value) for name, value in row._mapping.items()} for row in transaction.execute(wrong)
    ]
    return _add(transaction, ShardCount, ("job_id", "lane", "state"), differences)


def _correct_outcomes(transaction: Transaction, lane: str) -> int:
    transaction.lock_counts()
    reason, flags = func.coalesce(OutcomeRow.reason_class, ""), as_text(OutcomeRow.flags)
    failures = (
        select(literal("failures", Text).label("name"), reason.label("label"), func.count().label("n"))
        .join(SpecRow, SpecRow.id == OutcomeRow.spec_id)
        .where(SpecRow.kind == lane, NOT_DONE, OutcomeRow.status == "failed")
        .group_by(reason)
    )
    lists = (
        select(literal(_LISTS, Text), flags, func.count())
        .join(SpecRow, SpecRow.id == OutcomeRow.spec_id)
        .where(SpecRow.kind == lane, FLAGGED)
        .group_by(flags)
    )
    kept = select(WorkCount.name, WorkCount.label, -WorkCount.n).where(
        WorkCount.lane == lane, WorkCount.name.in_(_OF_OUTCOMES)
    )
    wrong = _differences(transaction.execute(union_all(failures, lists, kept)).all())
    differences = [
        {"name": name, "lane": lane, "label": label, "n": n} for (name, label), n in sorted(wrong.items()) if n
    ]
    return _add(transaction, WorkCount, ("name", "lane", "label"), differences)


def _differences(rows: Iterable[Any]) -> Counter[tuple[str, str]]:
    """Return the sum of each name and label. A list of flags counts for each flag in it."""
    sums = Counter[tuple[str, str]]()
    for name, label, n in rows:
        if name == _LISTS:
            sums.update({("flags", flag): int(n) for flag in orjson.loads(label)})
        else:
            sums[name, label] += int(n)
    return sums


def _add(
    transaction: Transaction,
    table: type[ShardCount | WorkCount],
    key: Sequence[str],
    differences: Sequence[Mapping[str, Any]],
) -> int:
    """Add differences to kept counts, and return their number. On SQLite a key has one row."""
    for difference in differences:
        same = and_(*(getattr(table, name) == difference[name] for name in key))
        grown = {name: getattr(table, name) + n for name, n in difference.items() if name not in key}
        is_there = (
            transaction.server is None and transaction.execute(update(table).where(same).values(**grown)).rowcount
        )
        if not is_there:
            transaction.execute(insert(table).values(**difference))
    return len(differences)


def _plain(value: Any) -> Any:
    """Return a sum, which PostgreSQL has as a decimal number, as an integer."""
    return value if isinstance(value, str) else int(value)
