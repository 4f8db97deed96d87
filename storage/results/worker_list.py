"""Workers as pages show them: device, load, what they hold and what they refuse."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import func, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Refusal, Shard, SpecRow, Worker
from docmill.storage.core.tables import db_now
from docmill.storage.core.transaction import Transaction
from docmill.storage.leases.dispatch import LIVE_S, REFUSAL_S
from docmill.storage.results.time_use import TimeUse, time_use
from docmill.storage.results.worker_pace import Pace, slowness, total

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
class ListedWorker:
    """A device process. `seen_s` is the age of its last sign of life; `live`: that was in the last 30 seconds.

    `done` is what it finished in the last `PACE_S` seconds, None for nothing; `time_use` says what its time of the
    last minute went to. `slowness` is how many times as long its shards took as those of other live workers (see
    `storage.results.worker_pace`); None if there is nothing to compare.
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
    done: Pace | None
    time_use: TimeUse | None
    slowness: float | None

    @property
    def load(self) -> int:
        """The shards that it holds."""
        return sum(one.shards for one in self.held)


def list_workers(database: Database) -> list[ListedWorker]:
    """Return the workers that were seen last, by host and device: those that live first."""
    with database.read() as transaction:
        now = transaction.scalar(select(db_now())) or 0.0
        rows = transaction.execute(select(Worker).order_by(Worker.seen_at.desc()).limit(MOST)).all()
        held, refused, paces = _held(transaction), _refused(transaction, now), _paces(transaction, now)
    live = {row.id for row in rows if row.seen_at > now - LIVE_S}
    slow = slowness({owner: by_spec for owner, by_spec in paces.items() if owner in live})
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
            live=row.id in live,
            trouble=row.trouble,
            device_problem=row.device_problem,
            held=tuple(held.get(row.id, ())),
            refused=tuple(refused.get(row.id, ())),
            done=total(paces[row.id].values()) if row.id in paces else None,
            time_use=time_use([row.time_use]) if row.time_use else None,
            slowness=slow.get(row.id),
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


def _paces(transaction: Transaction, now: float) -> dict[str, dict[int, Pace]]:
    """Return what each process finished lately, by spec."""
    held_s = Shard.finished_at - Shard.started_at
    rows = transaction.execute(
        select(
            Shard.owner,
            Shard.spec_id,
            func.count().label("shards"),
            func.sum(Shard.n_done + Shard.n_failed + Shard.n_skipped).label("texts"),
            func.sum(Shard.tokens_in).label("tokens"),
            func.sum(held_s).label("held_s"),
        )
        .where(Shard.state == "done", Shard.finished_at.is_not(None), Shard.finished_at > now - PACE_S)  # by an index
        .group_by(Shard.owner, Shard.spec_id)
    )
    found: dict[str, dict[int, Pace]] = defaultdict(dict)
    for row in rows:
        if row.owner is not None:
            counted = (int(row.shards), int(row.texts), int(row.tokens), float(row.held_s or 0.0))
            found[row.owner][row.spec_id] = Pace(*counted)
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
