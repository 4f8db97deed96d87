"""A fleet at a glance: lanes, workers with their load and refusals, and the latest failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import and_, func, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Document, Ingest, Job, OutcomeRow, Refusal, Rejection, Shard, Worker
from docmill.storage.core.tables import db_now
from docmill.storage.core.transaction import Transaction
from docmill.storage.leases.dispatch import LIVE_S, REFUSAL_S
from docmill.storage.steps.jobs import OPEN_SHARDS, RUNS
from docmill.storage.steps.sharding import unpack

FAILURES_S = 86_400.0  # how far back
_SHARDS_WITH_FAILURES = 10  # how many are looked through
_JOBS = 50  # whose rejected records are looked for


@dataclass(frozen=True)
class LaneState:
    """The open shards of a lane by state, and the age of the oldest job that has some, in seconds."""

    lane: str
    planned: int
    queued: int
    running: int
    oldest_s: float


@dataclass(frozen=True)
class WorkerState:
    """A live device process: `held` of its `slots` have a shard. `problem` says why it cannot work."""

    id: str
    host: str
    device: str
    lanes: tuple[str, ...]
    held: int
    slots: int
    problem: str | None
    refusals: tuple[str, ...]


@dataclass(frozen=True)
class RecentFailure:
    """A document that failed, or a rejected record by its place; `at` are seconds since 1970."""

    job: int
    document: str
    reason: str
    at: float


@dataclass(frozen=True)
class Overview:
    """A fleet at one moment; `now` is the database's clock."""

    now: float
    lanes: tuple[LaneState, ...]
    workers: tuple[WorkerState, ...]
    failures: tuple[RecentFailure, ...]


def read_overview(database: Database, lanes: Collection[str], failures: int = 20) -> Overview:
    """Return the fleet as it is now; `lanes` are all kinds of tasks.

    The work is bounded by the open shards, by the latest shards with failures, and by the latest jobs.
    """
    with database.read() as transaction:
        now = transaction.scalar(select(db_now())) or 0.0
        failed = [*_failures(transaction, lanes, now, failures), *_rejected(transaction, now, failures)]
        latest = sorted(failed, key=lambda one: -one.at)[:failures]
        return Overview(now, _lanes(transaction, now), _workers(transaction, now), tuple(latest))


def _lanes(transaction: Transaction, now: float) -> tuple[LaneState, ...]:
    rows = transaction.execute(
        select(Shard.lane, Shard.state, func.count().label("n"), func.min(Job.created_at).label("since"))
        .join(Job, Job.id == Shard.job_id)
        .where(Shard.state.in_(OPEN_SHARDS), RUNS)
        .group_by(Shard.lane, Shard.state)
    ).all()
    found = []
    for lane in sorted({row.lane for row in rows}):
        mine = {row.state: row for row in rows if row.lane == lane}
        planned, queued, running = (mine[state].n if state in mine else 0 for state in OPEN_SHARDS)
        oldest_s = now - min(row.since for row in mine.values())
        found.append(LaneState(lane, planned, queued, running, oldest_s))
    return tuple(found)


def _workers(transaction: Transaction, now: float) -> tuple[WorkerState, ...]:
    held = Counter(transaction.scalars(select(Shard.owner).where(Shard.state == "running")))
    refused = transaction.execute(
        select(Refusal.worker_id, Refusal.reason)
        .join(Worker, Worker.id == Refusal.worker_id)
        .where(Worker.seen_at > now - LIVE_S, Refusal.refused_at > now - 2 * REFUSAL_S)
        .order_by(Refusal.refused_at.desc())
    ).all()
    columns = (Worker.id, Worker.host, Worker.device, Worker.lanes, Worker.slots, Worker.trouble)
    rows = transaction.execute(
        select(*columns, Worker.device_problem).where(Worker.seen_at > now - LIVE_S).order_by(Worker.id)
    )
    return tuple(
        WorkerState(
            row.id,
            row.host,
            row.device,
            tuple(row.lanes),
            held[row.id],
            row.slots,
            row.device_problem or row.trouble,
            tuple(one.reason for one in refused if one.worker_id == row.id),
        )
        for row in rows
    )


def _failures(transaction: Transaction, lanes: Collection[str], now: float, most: int) -> tuple[RecentFailure, ...]:
    shards = transaction.execute(
        select(Shard.job_id, Shard.spec_id, Shard.contents, Shard.finished_at, Job.corpus_id)
        .join(Job, Job.id == Shard.job_id)
        .where(
            Shard.lane.in_(lanes),  # named, since the index begins with the lane
            Shard.state == "done",
            Shard.dispatched_at > now - FAILURES_S,
            Shard.n_failed > 0,
        )
        .order_by(Shard.finished_at.desc())
        .limit(_SHARDS_WITH_FAILURES)
    ).all()
    found: list[RecentFailure] = []
    for shard in shards:
        if len(found) >= most:
            break
        rows = transaction.execute(
            select(OutcomeRow.content_id, OutcomeRow.reason, func.min(Document.key).label("key"))
            .outerjoin(
                Document, and_(Document.content_id == OutcomeRow.content_id, Document.corpus_id == shard.corpus_id)
            )
            .where(
                OutcomeRow.spec_id == shard.spec_id,
                OutcomeRow.content_id.in_(unpack(shard.contents)),
                OutcomeRow.status == "failed",
            )
            .group_by(OutcomeRow.content_id, OutcomeRow.reason)
            .order_by(OutcomeRow.content_id)
            .limit(most - len(found))
        )
        found += [
            RecentFailure(shard.job_id, row.key or "", row.reason or "", shard.finished_at or now) for row in rows
        ]
    return tuple(found)


def _rejected(transaction: Transaction, now: float, most: int) -> list[RecentFailure]:
    """Return the rejected records of the latest jobs, those of the newest job first."""
    latest = select(Job.id, Job.ingest_id).order_by(Job.id.desc()).limit(_JOBS).subquery()
    read = transaction.execute(
        select(latest.c.id, latest.c.ingest_id, Ingest.seen_at)
        .join(Ingest, Ingest.id == latest.c.ingest_id)
        .where(Ingest.n_rejected > 0, Ingest.seen_at > now - FAILURES_S)
        .order_by(latest.c.id.desc())
    ).all()
    found: list[RecentFailure] = []
    for job in read:
        if len(found) >= most:
            break
        of_job = and_(Rejection.ingest_id == job.ingest_id, ~Rejection.superseded)
        query = select(Rejection.place, Rejection.reason).where(of_job).order_by(Rejection.place)
        rows = transaction.execute(query.limit(most - len(found)))
        found += [RecentFailure(job.id, row.place, f"rejected: {row.reason}", job.seen_at) for row in rows]
    return found
