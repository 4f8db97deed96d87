"""Kept counts of shards and of work (`storage.core.schema`). Reading them costs the same for any backlog."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select

from docmill.storage.core.schema import Job, ShardCount, WorkCount
from docmill.storage.core.transaction import Transaction
from docmill.storage.steps.jobs import OPEN_SHARDS, RUNS

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
class Work:
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
    found: dict[tuple[int, str], OpenShards] = {}
    for row in rows:
        before = found.get((row.job_id, row.lane))
        states = {**(before.states if before else {}), row.state: int(row.shards)}
        suspects = int(row.suspects) + (before.suspects if before else 0)
        found[row.job_id, row.lane] = OpenShards(row.job_id, row.created_at, row.lane, states, suspects)
    return [one for one in found.values() if any(one.states.values())]


def read_work(transaction: Transaction) -> Work:
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

    return Work(
        texts=of("texts"),
        tokens_in=of("tokens_in"),
        tokens_out=of("tokens_out"),
        commits={lane: n for (lane, _), n in of("commits").items()},
        lapses={lane: n for (lane, _), n in of("lapses").items()},
        failures=of("failures"),
        flags=of("flags"),
        records={label: n for (_, label), n in of("records").items()},
    )
