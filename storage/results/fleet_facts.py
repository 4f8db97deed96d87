"""Live workers, what they refuse, and the shards that they hold: the facts that decide why jobs wait."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, select

from docmill.storage.core.schema import Refusal, Shard, Worker
from docmill.storage.core.transaction import Transaction
from docmill.storage.leases.dispatch import LIVE_S
from docmill.storage.results.time_use import TimeUse, time_use

SILENT_S = 15.0  # three times as long as a worker needs for a sign of life
_REFUSALS = 10_000


@dataclass(frozen=True)
class Holders:
    """The holders of a step's running shards.

    `running` counts shards of live workers without trouble, and `silent` those of silent workers. The first lease of
    a silent worker lapses in `lapse_s` seconds.
    """

    running: int = 0
    silent: int = 0
    lapse_s: float = 0.0
    troubles: tuple[str, ...] = ()


@dataclass(frozen=True)
class FleetFacts:
    """The live workers, refusals by spec (newest first), and holders by job and step."""

    workers: Sequence[Row[*tuple[Any, ...]]] = ()
    refusals: Mapping[int, Sequence[Row[*tuple[Any, ...]]]] = field(default_factory=dict)
    holders: Mapping[tuple[int, int], Holders] = field(default_factory=dict)

    def computed(self, job_id: int) -> float:
        """Return how many of a job's texts the live workers have computed and not yet written."""
        return sum(float(worker.computed.get(str(job_id), 0.0)) for worker in self.workers if worker.computed)

    def time_use(self, job_id: int) -> TimeUse | None:
        """Return where the time of the workers goes that hold shards of a job; None while it is not known."""
        holding = [worker for worker in self.workers if worker.computed and str(job_id) in worker.computed]
        return time_use(worker.time_use for worker in holding if worker.time_use)

    def reasons(self, spec_id: int, worker_ids: Sequence[str]) -> tuple[str, ...]:
        """Return why these workers refuse a spec, newest first. Without a worker, why any ever did."""
        found = self.refusals.get(spec_id, ())
        return tuple(one.reason for one in found if not worker_ids or one.worker_id in worker_ids)


def read_fleet(
    transaction: Transaction, spec_ids: Collection[int], holding: Collection[int], now: float
) -> FleetFacts:
    """Return the facts about jobs with these specs. The jobs `holding` have running shards."""
    columns = (Worker.id, Worker.lanes, Worker.trouble, Worker.computed, Worker.time_use)
    workers = transaction.execute(select(*columns).where(Worker.seen_at > now - LIVE_S)).all()
    refusals: dict[int, list[Row[*tuple[Any, ...]]]] = defaultdict(list)
    for row in transaction.execute(
        select(Refusal.spec_id, Refusal.worker_id, Refusal.reason)
        .where(Refusal.spec_id.in_(spec_ids))
        .order_by(Refusal.refused_at.desc())
        .limit(_REFUSALS)
    ):
        refusals[row.spec_id].append(row)
    return FleetFacts(workers, refusals, _holders(transaction, holding, now) if holding else {})


def _holders(transaction: Transaction, job_ids: Collection[int], now: float) -> dict[tuple[int, int], Holders]:
    held = transaction.execute(
        select(Shard.job_id, Shard.step, Shard.lease_until, Worker.seen_at, Worker.trouble)
        .outerjoin(Worker, Worker.id == Shard.owner)
        .where(Shard.job_id.in_(job_ids), Shard.state == "running")
    )
    by_step: dict[tuple[int, int], list[Row[*tuple[Any, ...]]]] = defaultdict(list)
    for row in held:
        by_step[row.job_id, row.step].append(row)
    return {step: _of_shards(rows, now) for step, rows in by_step.items()}


def _of_shards(held: Sequence[Row[*tuple[Any, ...]]], now: float) -> Holders:
    silent = [shard.lease_until for shard in held if (shard.seen_at or 0.0) < now - SILENT_S]
    live = [shard.trouble for shard in held if (shard.seen_at or 0.0) >= now - SILENT_S]
    troubles = tuple(trouble for trouble in live if trouble is not None)
    return Holders(len(live) - len(troubles), len(silent), min(silent, default=now) - now, troubles)
