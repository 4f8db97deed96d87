"""The fleet at one moment, as the store has it: workers, lanes, jobs, readings and pipelines.

The status of jobs, live views, the pages and the metrics show parts of it. Its cost depends on the jobs, the kept
counts, the running and queued shards, and the shards of the last minutes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sqlalchemy import case, func, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import (
    IS_DONE,
    IS_RUNNING,
    AnyRow,
    Corpus,
    Ingest,
    Job,
    PipelineRow,
    PipelineRun,
    Refusal,
    Shard,
    SpecRow,
    Worker,
)
from docmill.storage.core.transaction import Transaction
from docmill.storage.leases.diagnosis import STALE_INGEST_S
from docmill.storage.leases.dispatch import LIVE_S, REFUSAL_S
from docmill.storage.results.counts import StoreTotals, count_open_shards, read_work
from docmill.storage.steps.jobs import PAUSED, RUNS

FRESH_S = 15.0  # a worker that was seen within this time counts as live; workers report three times as often
MOST = 200  # workers that are listed
REFUSALS = 10_000
LANE_PACE_S = 120.0  # the time over which the pace of a lane is measured


_HeldShards: TypeAlias = AnyRow  # of `_held`
_Refusal: TypeAlias = AnyRow  # of `_refused`


@dataclass(frozen=True)
class TimeShares:
    """Shares from 0 to 1, over about the last minute of workers.

    `device_busy` is the share of their working time in which their devices computed. The others are shares of the
    time of shards: `reading` texts from the store, `cutting` them into windows, `computing` (with the wait for the
    device), and `writing` results to the store. A worker may compute other jobs at the same time.
    """

    device_busy: float
    reading: float
    cutting: float
    computing: float
    writing: float


@dataclass(frozen=True)
class FleetWorker:
    """A device process. It sent its last heartbeat `seen_s` ago; a `live` process sent one in the last 30 seconds.

    `trouble` says why the store refuses its writes, and `device_problem` why its device cannot compute. `computed`
    counts texts that are computed and not yet written, by job. `spent_s` are the seconds of the last minute by their
    use.
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
    live: bool = True
    trouble: str | None = None
    device_problem: str | None = None
    held: Sequence[_HeldShards] = ()
    refused: Sequence[_Refusal] = ()
    computed: Mapping[int, float] = field(default_factory=dict)
    spent_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def load(self) -> int:
        """The shards that it holds."""
        return sum(held.shards for held in self.held)

    @property
    def time_use(self) -> TimeShares | None:
        """The shares of its time; None while they are not known."""
        return time_use([self.spent_s])


@dataclass(frozen=True)
class Workers:
    """The live workers by host and device, all running shards, and all refusals, the newest first."""

    live: tuple[FleetWorker, ...] = ()
    held: Sequence[_HeldShards] = ()
    refused: Sequence[_Refusal] = ()

    def computed(self, job_id: int) -> float:
        """Return how many of a job's texts the live workers have computed and not yet written."""
        return sum(worker.computed.get(job_id, 0.0) for worker in self.live)

    def time_use(self, job_id: int) -> TimeShares | None:
        """Return the time shares of the workers that hold shards of a job; None while they are not known."""
        return time_use(worker.spent_s for worker in self.live if job_id in worker.computed)

    def reasons(self, spec_id: int, worker_ids: Sequence[str]) -> tuple[str, ...]:
        """Return the reasons why these workers refuse a spec, newest first; without workers, those of any worker."""
        of_spec = (refused for refused in self.refused if refused.spec_id == spec_id)
        return tuple(refused.reason for refused in of_spec if not worker_ids or refused.worker_id in worker_ids)


def read_workers(transaction: Transaction, now: float) -> Workers:
    """Return the live workers with their shards and refusals."""
    rows = transaction.execute(select(Worker).where(Worker.seen_at > now - LIVE_S)).all()
    return Workers(*_workers(transaction, rows, now))


def list_workers(database: Database) -> list[FleetWorker]:
    """Return the workers with the latest heartbeats by host and device, the live ones first."""
    with database.read() as transaction:
        now = transaction.read_clock()
        rows = transaction.execute(select(Worker).order_by(Worker.seen_at.desc()).limit(MOST)).all()
        workers, _, _ = _workers(transaction, rows, now)
        return sorted(workers, key=lambda worker: not worker.live)


def _workers(
    transaction: Transaction, rows: Sequence[AnyRow], now: float
) -> tuple[tuple[FleetWorker, ...], Sequence[_HeldShards], Sequence[_Refusal]]:
    """Return the workers in these rows, all running shards, and all refusals."""
    held, refused = _held(transaction), _refused(transaction)
    of_owner, by_worker = defaultdict[str, list[_HeldShards]](list), defaultdict[str, list[_Refusal]](list)
    for shards in held:
        of_owner[shards.owner].append(shards)
    for refusal in refused:
        if refusal.refused_at > now - 2 * REFUSAL_S:
            by_worker[refusal.worker_id].append(refusal)
    workers = tuple(
        FleetWorker(
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
            held=tuple(of_owner[row.id]),
            refused=tuple(by_worker[row.id]),
            computed={int(job_id): float(texts) for job_id, texts in (row.computed or {}).items()},
            spent_s=row.time_use or {},
        )
        for row in sorted(rows, key=lambda row: (row.host, row.device, row.id))
    )
    return workers, held, refused


def _held(transaction: Transaction) -> Sequence[_HeldShards]:
    """Return the number of running `shards` by owner, job and step. The first lease ends at `lease_until`."""
    same = (Shard.owner, Shard.job_id, Shard.step, Shard.lane, SpecRow.model)
    return transaction.execute(
        select(*same, func.count().label("shards"), func.min(Shard.lease_until).label("lease_until"))
        .join(SpecRow, SpecRow.id == Shard.spec_id)
        .where(IS_RUNNING)
        .group_by(*same)
        .order_by(Shard.job_id, Shard.step)
    ).all()


def _refused(transaction: Transaction) -> Sequence[_Refusal]:
    """Return the specs that workers cannot serve, each with its lane, its model and the reason, the newest first."""
    return transaction.execute(
        select(Refusal, SpecRow.kind.label("lane"), SpecRow.model)
        .join(SpecRow, SpecRow.id == Refusal.spec_id)
        .order_by(Refusal.refused_at.desc())
        .limit(REFUSALS)
    ).all()


def time_use(seconds: Iterable[Mapping[str, float]]) -> TimeShares | None:
    """Return the shares of the seconds that workers reported; None if they report none."""
    total: dict[str, float] = {}
    for spent_s in seconds:
        for name, value in spent_s.items():
            total[name] = total.get(name, 0.0) + float(value)
    phases = [total.get(name, 0.0) for name in ("reading", "cutting", "computing", "writing")]
    if not sum(phases):
        return None
    working = total.get("working", 0.0)
    busy = min(1.0, total.get("device", 0.0) / working) if working else 0.0
    return TimeShares(round(busy, 4), *(round(phase / sum(phases), 4) for phase in phases))


@dataclass(frozen=True)
class Lane:
    """The queue of a kind of task: the open shards of jobs that run, by state, and the workers that serve it.

    `suspects` are shards that may kill their process. `oldest_s` is the age of the oldest job that runs and has open
    shards, and `oldest_queued_s` how long the first shard in the queue has waited. The paces are those of the last
    two minutes, of texts by status; {} if nothing was committed.
    """

    name: str
    planned: int = 0
    queued: int = 0
    running: int = 0
    suspects: int = 0
    oldest_s: float | None = None
    oldest_queued_s: float | None = None
    workers: int = 0
    slots: int = 0
    statuses_per_s: Mapping[str, float] = field(default_factory=dict)
    tokens_in_per_s: float = 0.0
    tokens_out_per_s: float = 0.0

    @property
    def open(self) -> int:
        return self.planned + self.queued + self.running

    @property
    def texts_per_s(self) -> float:
        return sum(self.statuses_per_s.values())


@dataclass(frozen=True)
class PipelineState:
    """A stored pipeline. `late_s` is the age of its oldest due run that has not begun; 0 if there is none.

    Times that came due after `looked_at` have no run yet: a worker makes it.
    """

    name: str
    succeeded_at: float | None  # seconds since 1970
    failed: bool  # its last run that ended failed
    late_s: float
    schedule: Mapping[str, str] | None = None
    looked_at: float = 0.0


@dataclass(frozen=True)
class Fleet:
    """A fleet at one moment, `at`, by the database's clock."""

    at: float
    documents: int  # of all corpora
    work: StoreTotals
    jobs: Mapping[str, int]  # by state; `paused` is a state of its own
    lanes: tuple[Lane, ...]  # all, by name
    workers: tuple[FleetWorker, ...]  # those that live
    readings: Mapping[str, int]  # sources that are read now, and readings that were cut off
    pipelines: tuple[PipelineState, ...]


def read_fleet(database: Database, lanes: Collection[str]) -> Fleet:
    """Return the state of the fleet; `lanes` are all kinds of tasks."""
    with database.read() as transaction:
        now = transaction.read_clock()
        workers = read_workers(transaction, now).live
        return Fleet(
            at=now,
            documents=transaction.scalar(select(func.coalesce(func.sum(Corpus.n_documents), 0))) or 0,
            work=read_work(transaction),
            jobs=_jobs(transaction),
            lanes=_lanes(transaction, lanes, workers, now),
            workers=workers,
            readings=_readings(transaction, now),
            pipelines=_pipelines(transaction, now),
        )


def _lanes(
    transaction: Transaction, names: Collection[str], workers: Sequence[FleetWorker], now: float
) -> tuple[Lane, ...]:
    opened: dict[str, list[AnyRow]] = {name: [] for name in names}
    for shards in count_open_shards(transaction):
        opened.setdefault(shards.lane, []).append(shards)
    waiting = _waiting(transaction, opened, now)
    paces = _paces(transaction, now)
    lanes = []
    for name in sorted(opened):
        serving = [worker for worker in workers if name in worker.lanes]
        states: dict[str, Any] = {shards.state: int(shards.n) for shards in opened[name]}
        lane = Lane(
            name=name,
            suspects=sum(int(shards.suspects) for shards in opened[name]),
            oldest_s=max((now - shards.created_at for shards in opened[name]), default=None),
            oldest_queued_s=waiting.get(name),
            workers=len(serving),
            slots=sum(worker.slots for worker in serving),
            **states,
            **paces.get(name, {}),
        )
        lanes.append(lane)
    return tuple(lanes)


def _waiting(transaction: Transaction, lanes: Collection[str], now: float) -> dict[str, float]:
    """Return how long the shard that was dispatched first has waited in each lane's queue."""
    rows = transaction.execute(
        select(Shard.lane, func.min(Shard.dispatched_at).label("at"))
        .join(Job, Job.id == Shard.job_id)
        .where(Shard.lane.in_(lanes), Shard.state == "queued", Shard.dispatched_at.is_not(None), RUNS)
        .group_by(Shard.lane)
    )
    return {row.lane: max(0.0, now - row.at) for row in rows}


def _paces(transaction: Transaction, now: float) -> dict[str, dict[str, Any]]:
    """Return the fields of `Lane` with speeds, for each lane in which shards ended lately."""
    summed = (Shard.n_done, Shard.n_failed, Shard.n_skipped, Shard.tokens_in, Shard.tokens_out)
    query = select(Shard.lane, *map(func.sum, summed)).group_by(Shard.lane)
    paces: dict[str, dict[str, Any]] = {}
    for lane, *sums in transaction.execute(query.where(IS_DONE, Shard.finished_at > now - LANE_PACE_S)):
        done, failed, skipped, tokens_in, tokens_out = (float(n) / LANE_PACE_S for n in sums)
        paces[lane] = {
            "statuses_per_s": {"done": done, "failed": failed, "skipped": skipped},
            "tokens_in_per_s": tokens_in,
            "tokens_out_per_s": tokens_out,
        }
    return paces


def _jobs(transaction: Transaction) -> dict[str, int]:
    state = case((PAUSED, "paused"), else_=Job.state).label("state")
    states = select(state).subquery().c.state
    counted = transaction.execute(select(states, func.count().label("n")).group_by(states))
    return {row.state: row.n for row in counted}


def _readings(transaction: Transaction, now: float) -> dict[str, int]:
    seen = transaction.scalars(
        select(Ingest.seen_at)
        .join(Job, Job.ingest_id == Ingest.id)
        .where(Job.state == "ingesting", Ingest.state == "reading")
    ).all()
    stopped = sum(at < now - STALE_INGEST_S for at in seen)
    return {"reading": len(seen) - stopped, "stopped": stopped}


def _pipelines(transaction: Transaction, now: float) -> tuple[PipelineState, ...]:
    done = (
        select(PipelineRun.pipeline_id, func.max(PipelineRun.finished_at).label("at"))
        .where(PipelineRun.state == "done")
        .group_by(PipelineRun.pipeline_id)
    ).subquery()
    due = (
        select(PipelineRun.pipeline_id, func.min(PipelineRun.due_at).label("at"))
        .where(PipelineRun.state == "due", PipelineRun.finished_at.is_(None))
        .group_by(PipelineRun.pipeline_id)
    ).subquery()
    last = (
        select(PipelineRun.state)
        .where(PipelineRun.pipeline_id == PipelineRow.id, PipelineRun.state.in_(("done", "failed")))
        .order_by(PipelineRun.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    columns = (PipelineRow.name, PipelineRow.schedule, PipelineRow.looked_at)
    rows = transaction.execute(
        select(*columns, done.c.at.label("done_at"), due.c.at.label("due_at"), last.label("last"))
        .outerjoin(done, done.c.pipeline_id == PipelineRow.id)
        .outerjoin(due, due.c.pipeline_id == PipelineRow.id)
        .order_by(PipelineRow.name)
    )
    return tuple(
        PipelineState(
            row.name,
            row.done_at,
            row.last == "failed",
            max(0.0, now - row.due_at) if row.due_at is not None else 0.0,
            row.schedule,
            row.looked_at,
        )
        for row in rows
    )
