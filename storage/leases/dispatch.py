"""Choose the shards to put into the queue, and keep the list of workers that can serve them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, delete, func, select, true, update

from docmill.storage.core.database import Database
from docmill.storage.core.normalize import normalize
from docmill.storage.core.schema import Ingest, Job, Refusal, Shard, SpecRow, Step, Worker, db_now
from docmill.storage.core.transaction import Transaction
from docmill.storage.leases.policy import Claimant, share
from docmill.storage.steps.jobs import FREE, RUNS
from docmill.storage.steps.sharding import OPEN_SHARDS

LIVE_S = 30.0  # a worker that was silent for longer is not counted
REFUSAL_S = 30.0  # how long a refusal holds before the worker is asked again
LEAST_WINDOW = 4  # a worker that starts finds shards at once
WINDOW_PER_SLOT = 2


@dataclass(frozen=True)
class LaneWindow:
    name: str
    slots: int
    queued: int

    @property
    def window(self) -> int:
        """The most shards that may wait in the lane's queue."""
        return max(LEAST_WINDOW, WINDOW_PER_SLOT * self.slots)


def lanes(database: Database) -> list[LaneWindow]:
    """Return the lanes of running jobs, with the slots of live workers and the number of queued shards."""
    with database.read() as transaction:
        depth = _queued(transaction)
        wanted = transaction.scalars(
            select(SpecRow.kind)
            .join(Step, Step.spec_id == SpecRow.id)
            .join(Job, Job.id == Step.job_id)
            .where(RUNS)
            .distinct()
        )
        slots = _slots(transaction)
        return [LaneWindow(lane, slots.get(lane, 0), depth.get(lane, 0)) for lane in sorted({*wanted, *depth})]


def _queued(transaction: Transaction) -> dict[str, int]:
    counted = transaction.execute(
        select(Shard.lane, func.count().label("n"))
        .join(Job, Job.id == Shard.job_id)
        .where(Shard.state == "queued", Shard.dispatched_at.is_not(None), RUNS)
        .group_by(Shard.lane)
    )
    return {row.lane: row.n for row in counted}


def _slots(transaction: Transaction) -> dict[str, int]:
    slots: dict[str, int] = {}
    for row in transaction.execute(select(Worker.lanes, Worker.slots).where(Worker.seen_at > db_now() - LIVE_S)):
        for lane in row.lanes:
            slots[lane] = slots.get(lane, 0) + row.slots
    return slots


def take(database: Database, lane: LaneWindow, only_job: int | None = None) -> list[int]:
    """Mark as queued the shards that fit the lane's window, by priority and fair share.

    Return their ids, for the caller to publish. Queued shards make room for those of a job with a higher priority;
    their messages are void then. With ``only_job`` only shards of that job are taken.
    """
    window = lane.window
    with database.read() as transaction:  # most often there is nothing to do; a read waits for no writer
        transaction.prefer_indexes()
        claimants = _claimants(transaction, lane.name, window, only_job)
        if not claimants:
            return []
        if lane.queued >= window and not transaction.execute(_outranked(lane.name, claimants).limit(1)).all():
            return []
    return database.write(lambda transaction: _take(transaction, lane.name, window, only_job))


def _take(transaction: Transaction, lane: str, window: int, only_job: int | None) -> list[int]:
    transaction.prefer_indexes()
    claimants = _claimants(transaction, lane, window, only_job)
    if not claimants:
        return []
    room = window - _queued(transaction).get(lane, 0)  # read again: other processes fill the queue too
    room += _displace(transaction, lane, claimants, room)
    taken: list[int] = []
    unservable = _unservable(transaction, lane)
    for job_id, n in share(claimants, room).items():
        query = _ready(lane, job_id, unservable).order_by(Shard.id).limit(n)
        chosen = list(transaction.scalars(transaction.for_update(query, skip_locked=True)))
        rows = transaction.execute(
            update(Shard)
            .where(Shard.id.in_(chosen), Shard.state == "planned")
            .values(state="queued", dispatched_at=db_now())
            .returning(Shard.id)
        )
        taken += sorted(row.id for row in rows)
    return taken


def _displace(transaction: Transaction, lane: str, claimants: list[Claimant], room: int) -> int:
    """Put queued shards of lower priority back. Return the number of places that this frees."""
    highest = max(claimant.priority for claimant in claimants)
    wanted = sum(claimant.planned for claimant in claimants if claimant.priority == highest) - room
    if wanted <= 0:
        return 0
    lower = _outranked(lane, claimants).order_by(Job.priority, Shard.dispatched_at.desc()).limit(wanted)
    return transaction.execute(
        update(Shard).where(Shard.id.in_(lower), Shard.state == "queued").values(**FREE)
    ).rowcount


def _outranked(lane: str, claimants: list[Claimant]) -> Select[int]:
    """Select the queued shards of jobs with a lower priority than the highest claimant."""
    highest = max(claimant.priority for claimant in claimants)
    return (
        select(Shard.id)
        .join(Job, Job.id == Shard.job_id)
        .where(
            Shard.lane == lane,
            Shard.state == "queued",
            Shard.dispatched_at.is_not(None),
            Job.priority < highest,
        )
    )


def _ready(lane: str, job_id: int | ColumnElement[int], unservable: Collection[int]) -> Select[int]:
    """Select the shards of a job that may be dispatched now, without those of specs that no worker can serve."""
    ready = select(Shard.id).where(
        Shard.job_id == job_id, Shard.state == "planned", Shard.lane == lane, Shard.not_before <= db_now()
    )
    return ready.where(Shard.spec_id.not_in(unservable)) if unservable else ready


def _claimants(transaction: Transaction, lane: str, room: int, only_job: int | None) -> list[Claimant]:
    """Return at most `room` jobs that have shards to dispatch in a lane and a worker that can serve them."""
    counted = transaction.execute(
        select(Shard.job_id, func.count().label("n"))
        .where(Shard.lane == lane, Shard.state.in_(["queued", "running"]), Shard.dispatched_at.is_not(None))
        .group_by(Shard.job_id)
    )
    in_flight = {row.job_id: row.n for row in counted}
    # One look into an index for each job, however many shards it has (OFFSET 0: see `Transaction.probe`).
    unservable = _unservable(transaction, lane)
    ready = _ready(lane, Job.id, unservable).offset(0).correlate(Job).exists()
    jobs = transaction.execute(
        select(Job.id, Job.priority)
        .join(Step, Step.job_id == Job.id)
        .join(SpecRow, SpecRow.id == Step.spec_id)
        .where(RUNS, SpecRow.kind == lane, Step.spec_id.not_in(unservable), ready)
        .where(true() if only_job is None else Job.id == only_job)
        .distinct()
    ).all()
    first = sorted(jobs, key=lambda job: (-job.priority, in_flight.get(job.id, 0), job.id))[:room]
    planned = {job.id: _count(transaction, _ready(lane, job.id, unservable).limit(room)) for job in first}
    return [Claimant(job.id, job.priority, in_flight.get(job.id, 0), planned[job.id]) for job in first]


def _count(transaction: Transaction, query: Select[int]) -> int:
    return transaction.scalar(select(func.count()).select_from(query.subquery())) or 0


def _unservable(transaction: Transaction, lane: str) -> set[int]:
    """Return the specs that every live worker of the lane has refused lately."""
    live = [
        row.id
        for row in transaction.execute(select(Worker.id, Worker.lanes).where(Worker.seen_at > db_now() - LIVE_S))
        if lane in row.lanes
    ]
    if not live:
        return set()
    refused = transaction.execute(
        select(Refusal.spec_id, func.count())
        .where(Refusal.worker_id.in_(live), Refusal.refused_at > db_now() - REFUSAL_S)
        .group_by(Refusal.spec_id)
    )
    return {spec_id for spec_id, n in refused if n == len(live)}


def put_back(database: Database, shard_ids: list[int]) -> None:
    """Mark queued shards as planned again, to undo `take` or to decline a message."""
    database.write(
        lambda transaction: transaction.execute(
            update(Shard).where(Shard.id.in_(shard_ids), Shard.state == "queued").values(**FREE)
        )
    )


def withdraw(database: Database, lanes: Collection[str]) -> None:
    """Mark all queued shards of these lanes as planned again, which makes their messages void."""
    database.write(
        lambda transaction: transaction.execute(
            update(Shard)
            .where(Shard.state == "queued", Shard.dispatched_at.is_not(None), Shard.lane.in_(lanes))
            .values(**FREE)
        )
    )


def refuse(database: Database, worker_id: str, spec_id: int, reason: str) -> None:
    """Note that a worker cannot serve a spec, and why. A worker that has not signed on is ignored."""
    values = {"reason": normalize(reason)[0], "refused_at": db_now()}

    def work(transaction: Transaction) -> None:
        if transaction.scalar(select(Worker.id).where(Worker.id == worker_id)) is not None:
            refusal = transaction.insert(Refusal).values(worker_id=worker_id, spec_id=spec_id, **values)
            transaction.execute(refusal.on_conflict_do_update(index_elements=["worker_id", "spec_id"], set_=values))

    database.write(work)


def accept(database: Database, worker_id: str, spec_id: int) -> None:
    """Note that a worker can serve a spec after all."""
    database.write(
        lambda transaction: transaction.execute(
            delete(Refusal).where(Refusal.worker_id == worker_id, Refusal.spec_id == spec_id)
        )
    )


def sign_on(
    database: Database,
    worker_id: str,
    *,
    host: str,
    pid: int,
    device: str,
    lanes: list[str],
    slots: int,
    version: str,
    pid_space: str | None = None,
) -> None:
    """Enter a device process into the list of workers."""
    row = {"host": host, "pid": pid, "device": device, "lanes": lanes, "slots": slots, "version": version}
    row["pid_space"] = pid_space
    new = {"id": worker_id, "started_at": db_now(), "seen_at": db_now(), **row}
    again = {"seen_at": db_now(), **row}
    database.write(
        lambda transaction: transaction.execute(
            transaction.insert(Worker).values(**new).on_conflict_do_update(index_elements=["id"], set_=again)
        )
    )


def live_workers(database: Database) -> set[str]:
    """Return the ids of the device processes that sent a heartbeat lately."""
    with database.read() as transaction:
        return set(transaction.scalars(select(Worker.id).where(Worker.seen_at > db_now() - LIVE_S)))


def neighbors(database: Database, pid_space: str) -> list[tuple[str, int]]:
    """Return (worker id, process number) of the workers in one PID namespace."""
    with database.read() as transaction:
        rows = transaction.execute(select(Worker.id, Worker.pid).where(Worker.pid_space == pid_space))
        return [(row.id, row.pid) for row in rows]


def sign_off(database: Database, worker_id: str) -> None:
    """Remove a device process from the list of workers. Its refusals are still shown for a while."""
    database.write(lambda transaction: transaction.execute(delete(Worker).where(Worker.id == worker_id)))


def unfinished_beside(database: Database, job_id: int, lanes: Collection[str], limit: int) -> list[tuple[int, str]]:
    """Other jobs that run and have shards to do in these lanes: their ids and sources, the oldest first."""
    to_do = select(Shard.id).where(Shard.job_id == Job.id, Shard.state.in_(OPEN_SHARDS), Shard.lane.in_(lanes))
    with database.read() as transaction:
        rows = transaction.execute(
            select(Job.id, Ingest.source)
            .join(Ingest, Ingest.id == Job.ingest_id)
            .where(RUNS, Job.id != job_id, to_do.exists())
            .order_by(Job.id)
            .limit(limit)
        )
        return [(row.id, row.source) for row in rows]
