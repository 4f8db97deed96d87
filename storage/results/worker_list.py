"""Workers as pages show them: device, load, what they hold and what they refuse."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import func, select

from storage.core.clock import db_now
from storage.core.database import Database
from storage.core.schema import Refusal, Shard, SpecRow, Worker
from storage.core.transaction import Transaction
from storage.leases.dispatch import LIVE_S, REFUSAL_S
from storage.results.time_use import TimeUse, time_use

MOST = 200  # workers, those that were seen last
PACE_S = 600.0  # over how long a pace is taken, since some shards are long
REFUSALS = 1_000


@dataclass(frozen=True)
class Held:
    """Shards of a job that a worker holds, and the model that computes them."""

    job_id: int
    lane: str
    model: str
    shards: int


@dataclass(frozen=True)
class Refused:
    """A spec that a worker cannot serve, and why."""

    lane: str
    model: str
    reason: str


@dataclass(frozen=True)
class Done:
    """Shards that a worker finished in the last `PACE_S` seconds: their texts and tokens, and the mean time of one.

    The tokens are those that the model read.
    """

    shards: int
    texts: int
    tokens: int
    mean_s: float


@dataclass(frozen=True)
class ListedWorker:
    """A device process. `seen_s` is the age of its last sign of life; `live`: that was in the last 30 seconds.

    `done` is what it finished lately, None for nothing; `time_use` says what its time of the last minute went to.
    """

    id: str
    host: str
    pid: int
    device: str
    lanes: tuple[str, ...]
    slots: int
    version: str
    started_at: float
    seen_s: float
    live: bool
    trouble: str | None
    device_problem: str | None
    held: tuple[Held, ...]
    refused: tuple[Refused, ...]
    done: Done | None
    time_use: TimeUse | None

    @property
    def load(self) -> int:
        """The shards that it holds."""
        return sum(one.shards for one in self.held)


def list_workers(database: Database) -> list[ListedWorker]:
    """Return the workers that were seen last, by host and device: those that live first."""
    with database.read() as transaction:
        now = transaction.scalar(select(db_now())) or 0.0
        rows = transaction.execute(select(Worker).order_by(Worker.seen_at.desc()).limit(MOST)).all()
        held, refused, done = _held(transaction), _refused(transaction, now), _done(transaction, now)
    found = [
        ListedWorker(
            id=row.id,
            host=row.host,
            pid=row.pid,
            device=row.device,
            lanes=tuple(row.lanes),
            slots=row.slots,
            version=row.version,
            started_at=row.started_at,
            seen_s=max(0.0, now - row.seen_at),
            live=row.seen_at > now - LIVE_S,
            trouble=row.trouble,
            device_problem=row.device_problem,
            held=tuple(held.get(row.id, ())),
            refused=tuple(refused.get(row.id, ())),
            done=done.get(row.id),
            time_use=time_use([row.time_use]) if row.time_use else None,
        )
        for row in rows
    ]
    return sorted(found, key=lambda one: (not one.live, one.host, one.device, one.id))


def _held(transaction: Transaction) -> dict[str, list[Held]]:
    rows = transaction.execute(
        select(Shard.owner, Shard.job_id, Shard.lane, SpecRow.model, func.count().label("shards"))
        .join(SpecRow, SpecRow.id == Shard.spec_id)
        .where(Shard.lease_until.is_not(None), Shard.state == "running")  # the index of running shards
        .group_by(Shard.owner, Shard.job_id, Shard.lane, SpecRow.model)
        .order_by(Shard.job_id)
    )
    found: dict[str, list[Held]] = defaultdict(list)
    for row in rows:
        found[row.owner or ""].append(Held(row.job_id, row.lane, row.model, row.shards))
    return found


def _done(transaction: Transaction, now: float) -> dict[str, Done]:
    length_s = Shard.finished_at - Shard.started_at
    sums = (Shard.n_done, Shard.n_failed, Shard.n_skipped, Shard.tokens_in)
    rows = transaction.execute(
        select(
            Shard.owner,
            func.count().label("shards"),
            func.avg(length_s).label("mean_s"),
            *(func.sum(column).label(column.key) for column in sums),
        )
        .where(Shard.state == "done", Shard.finished_at.is_not(None), Shard.finished_at > now - PACE_S)  # by an index
        .group_by(Shard.owner)
    )
    return {
        row.owner: Done(
            row.shards, int(row.n_done + row.n_failed + row.n_skipped), int(row.tokens_in), float(row.mean_s or 0.0)
        )
        for row in rows
        if row.owner is not None
    }


def _refused(transaction: Transaction, now: float) -> dict[str, list[Refused]]:
    rows = transaction.execute(
        select(Refusal.worker_id, SpecRow.kind, SpecRow.model, Refusal.reason)
        .join(SpecRow, SpecRow.id == Refusal.spec_id)
        .where(Refusal.refused_at > now - 2 * REFUSAL_S)
        .order_by(Refusal.refused_at.desc())
        .limit(REFUSALS)
    )
    found: dict[str, list[Refused]] = defaultdict(list)
    for row in rows:
        found[row.worker_id].append(Refused(row.kind, row.model, row.reason))
    return found
