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

MOST = 200  # workers, those that were seen last
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
class ListedWorker:
    """A device process. `seen_s` is the age of its last sign of life; `live`: that was in the last 30 seconds."""

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

    @property
    def load(self) -> int:
        """The shards that it holds."""
        return sum(one.shards for one in self.held)


def list_workers(database: Database) -> list[ListedWorker]:
    """Return the workers that were seen last, by host and device: those that live first."""
    with database.read() as transaction:
        now = transaction.scalar(select(db_now())) or 0.0
        rows = transaction.execute(select(Worker).order_by(Worker.seen_at.desc()).limit(MOST)).all()
        held, refused = _held(transaction), _refused(transaction, now)
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
