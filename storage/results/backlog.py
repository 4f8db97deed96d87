"""The state of a fleet in numbers: jobs, waiting work, pace, workers and pipelines, as the store has them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import func, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Corpus, Ingest, Job, PipelineRow, PipelineRun, Refusal, Shard, Worker
from docmill.storage.core.tables import db_now
from docmill.storage.core.transaction import Transaction
from docmill.storage.leases.dispatch import LIVE_S, REFUSAL_S
from docmill.storage.leases.stall_diagnosis import STALE_INGEST_S
from docmill.storage.results import counts
from docmill.storage.results.counts import OpenShards, Work
from docmill.storage.steps.jobs import OPEN_SHARDS, RUNS, UNFINISHED

PACE_S = 120.0  # over how long the pace is taken


@dataclass(frozen=True)
class Pace:
    """The work that a lane committed per second over the last `PACE_S` seconds."""

    texts: Mapping[str, float]  # by status: done, failed, skipped
    tokens_in: float
    tokens_out: float


@dataclass(frozen=True)
class LiveWorker:
    """A device process that gave a sign of life lately."""

    device: str
    lanes: tuple[str, ...]
    slots: int
    trouble: bool  # the store refuses what it writes
    device_problem: bool  # its device can compute nothing


@dataclass(frozen=True)
class PipelineState:
    """A stored pipeline. `late_s` is the age of its oldest due run that nobody has begun; 0 if there is none.

    What came due after `looked_at` has no run yet: a worker makes it.
    """

    name: str
    succeeded_at: float | None  # seconds since 1970
    failed: bool  # its last run that ended failed
    late_s: float
    schedule: Mapping[str, str] | None = None
    looked_at: float = 0.0


@dataclass(frozen=True)
class Backlog:
    """A fleet at one moment, `at`, by the database's clock. Lanes are kinds of tasks; ages are in seconds."""

    at: float
    documents: int  # of all corpora
    work: Work
    jobs: Mapping[str, int]  # by state; `paused` is a state of its own
    shards: Mapping[tuple[str, str], int]  # open shards of jobs that run, by lane and state
    suspects: Mapping[str, int]  # of them those that may kill their process, by lane
    oldest_s: Mapping[str, float]  # by lane: the age of the oldest job that runs and has open shards
    oldest_queued_s: Mapping[str, float]  # by lane: how long the first shard in the queue has waited
    paces: Mapping[str, Pace]
    workers: tuple[LiveWorker, ...]
    refusals: int  # pairs of a live worker and a spec that it cannot serve
    readings: Mapping[str, int]  # sources that are read now, and readings that were cut off
    pipelines: tuple[PipelineState, ...]


def read_backlog(database: Database, lanes: Collection[str]) -> Backlog:
    """Return the state of the fleet; `lanes` are all kinds of tasks.

    The work is bounded by jobs, kept counts, and the shards in the queue and of the last minutes.
    """
    with database.read() as transaction:
        now = transaction.scalar(select(db_now())) or 0.0
        held = counts.open_shards(transaction)
        return Backlog(
            at=now,
            documents=transaction.scalar(select(func.coalesce(func.sum(Corpus.n_documents), 0))) or 0,
            work=counts.read_work(transaction),
            jobs=_jobs(transaction),
            shards=_shards(held, lanes),
            suspects=_suspects(held, lanes),
            oldest_s=_oldest(held, now),
            oldest_queued_s=_oldest_queued(transaction, lanes, now),
            paces=_paces(transaction, now),
            workers=_workers(transaction, now),
            refusals=_refusals(transaction, now),
            readings=_readings(transaction, now),
            pipelines=_pipelines(transaction, now),
        )


def _shards(held: Iterable[OpenShards], lanes: Collection[str]) -> dict[tuple[str, str], int]:
    shards = {(lane, state): 0 for lane in lanes for state in OPEN_SHARDS}
    for one in held:
        for state, n in one.states.items():
            shards[one.lane, state] = shards.get((one.lane, state), 0) + n
    return shards


def _suspects(held: Iterable[OpenShards], lanes: Collection[str]) -> dict[str, int]:
    suspects = dict.fromkeys(lanes, 0)
    for one in held:
        suspects[one.lane] = suspects.get(one.lane, 0) + one.suspects
    return suspects


def _oldest(held: Iterable[OpenShards], now: float) -> dict[str, float]:
    oldest: dict[str, float] = {}
    for one in held:
        oldest[one.lane] = max(oldest.get(one.lane, 0.0), now - one.created_at)
    return oldest


def _jobs(transaction: Transaction) -> dict[str, int]:
    counted = transaction.execute(
        select(Job.state, Job.paused, func.count().label("n")).group_by(Job.state, Job.paused)
    )
    jobs: dict[str, int] = {}
    for row in counted:
        state = "paused" if row.paused and row.state in UNFINISHED else row.state
        jobs[state] = jobs.get(state, 0) + row.n
    return jobs


def _oldest_queued(transaction: Transaction, lanes: Collection[str], now: float) -> dict[str, float]:
    """Return how long the shard that was dispatched first has waited in each lane's queue."""
    rows = transaction.execute(
        select(Shard.lane, func.min(Shard.dispatched_at).label("at"))
        .join(Job, Job.id == Shard.job_id)
        .where(Shard.lane.in_(lanes), Shard.state == "queued", Shard.dispatched_at.is_not(None), RUNS)
        .group_by(Shard.lane)
    )
    return {row.lane: max(0.0, now - row.at) for row in rows}


def _paces(transaction: Transaction, now: float) -> dict[str, Pace]:
    sums = (Shard.n_done, Shard.n_failed, Shard.n_skipped, Shard.tokens_in, Shard.tokens_out)
    rows = transaction.execute(
        select(Shard.lane, *(func.sum(column).label(column.key) for column in sums))
        .where(
            Shard.state == "done",
            Shard.finished_at.is_not(None),  # selects an index
            Shard.finished_at > now - PACE_S,
        )
        .group_by(Shard.lane)
    )
    return {
        row.lane: Pace(
            texts={
                "done": float(row.n_done) / PACE_S,
                "failed": float(row.n_failed) / PACE_S,
                "skipped": float(row.n_skipped) / PACE_S,
            },
            tokens_in=float(row.tokens_in) / PACE_S,
            tokens_out=float(row.tokens_out) / PACE_S,
        )
        for row in rows
    }


def _workers(transaction: Transaction, now: float) -> tuple[LiveWorker, ...]:
    columns = (Worker.device, Worker.lanes, Worker.slots, Worker.trouble, Worker.device_problem)
    rows = transaction.execute(select(*columns).where(Worker.seen_at > now - LIVE_S).order_by(Worker.id))
    return tuple(
        LiveWorker(row.device, tuple(row.lanes), row.slots, row.trouble is not None, row.device_problem is not None)
        for row in rows
    )


def _refusals(transaction: Transaction, now: float) -> int:
    found = transaction.scalar(
        select(func.count())
        .select_from(Refusal)
        .join(Worker, Worker.id == Refusal.worker_id)
        .where(Worker.seen_at > now - LIVE_S, Refusal.refused_at > now - 2 * REFUSAL_S)
    )
    return found or 0


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
