"""Which shards are offered to the queue next, and by whom they can be served."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, select, update

from storage.database import Database, db_now
from storage.jobs import RUNNABLE
from storage.policy import Claimant, share
from storage.schema import Job, Refusal, Shard, SpecRow, Step, Worker

LIVE_S = 30.0  # a worker that was silent for longer does not count
REFUSAL_S = 30.0  # how long a refusal holds before the worker is asked again
LEAST_WINDOW = 4  # so that a worker that starts finds something at once
WINDOW_PER_SLOT = 2


@dataclass(frozen=True)
class Lane:
    name: str
    slots: int
    queued: int


def lanes(database: Database) -> list[Lane]:
    """The lanes of the jobs that run, with their live slots and what is queued in them."""
    with database.read() as connection:
        depth = _queued(connection)
        wanted = connection.scalars(
            select(SpecRow.kind)
            .join(Step, Step.spec_id == SpecRow.id)
            .join(Job, Job.id == Step.job_id)
            .where(Job.state.in_(RUNNABLE))
            .distinct()
        )
        slots = _slots(connection)
        return [Lane(lane, slots.get(lane, 0), depth.get(lane, 0)) for lane in sorted({*wanted, *depth})]


def _queued(connection: Connection) -> dict[str, int]:
    counted = connection.execute(
        select(Shard.lane, func.count().label("n"))
        .join(Job, Job.id == Shard.job_id)
        .where(Shard.state == "queued", Job.state.in_(RUNNABLE))
        .group_by(Shard.lane)
    )
    return {row.lane: row.n for row in counted}


def _slots(connection: Connection) -> dict[str, int]:
    slots: dict[str, int] = {}
    for served, n in connection.execute(select(Worker.lanes, Worker.slots).where(Worker.seen_at > db_now() - LIVE_S)):
        for lane in served:
            slots[lane] = slots.get(lane, 0) + n
    return slots


def take(database: Database, lane: Lane) -> list[int]:
    """Mark as queued what fits the lane's window, by priority and fair share: ids for the caller to publish."""
    window = max(LEAST_WINDOW, WINDOW_PER_SLOT * lane.slots)
    if lane.queued >= window:
        return []
    return database.write(lambda connection: _take(database, connection, lane.name, window))


def _take(database: Database, connection: Connection, lane: str, window: int) -> list[int]:
    room = window - _queued(connection).get(lane, 0)  # looked at again: others top up too
    if room <= 0:
        return []
    unservable = _unservable(connection, lane)
    claimants = [claimant for claimant, spec_id in _claimants(connection, lane, room) if spec_id not in unservable]
    taken: list[int] = []
    for job_id, n in share(claimants, room).items():
        query = (
            select(Shard.id)
            .where(
                Shard.job_id == job_id,
                Shard.lane == lane,
                Shard.state == "planned",
                Shard.not_before <= db_now(),
            )
            .order_by(Shard.id)
            .limit(n)
        )
        chosen = list(connection.scalars(query if database.is_sqlite else query.with_for_update(skip_locked=True)))
        rows = connection.execute(
            update(Shard)
            .where(Shard.id.in_(chosen), Shard.state == "planned")
            .values(state="queued", dispatched_at=db_now())
            .returning(Shard.id)
        )
        taken += sorted(row.id for row in rows)
    return taken


def _claimants(connection: Connection, lane: str, room: int) -> list[tuple[Claimant, int]]:
    counted = connection.execute(
        select(Shard.job_id, func.count().label("n"))
        .where(Shard.lane == lane, Shard.state.in_(["queued", "running"]))
        .group_by(Shard.job_id)
    )
    in_flight = {row.job_id: row.n for row in counted}
    found = []
    for job in connection.execute(select(Job.id, Job.priority).where(Job.state.in_(RUNNABLE))).all():
        ready = connection.execute(
            select(Shard.id, Shard.spec_id)
            .where(
                Shard.job_id == job.id,
                Shard.lane == lane,
                Shard.state == "planned",
                Shard.not_before <= db_now(),
            )
            .limit(room)
        ).all()
        if ready:
            found.append((Claimant(job.id, job.priority, in_flight.get(job.id, 0), len(ready)), ready[0].spec_id))
    return found


def _unservable(connection: Connection, lane: str) -> set[int]:
    """Specs that every live worker of the lane has refused lately."""
    live = [
        row.id
        for row in connection.execute(select(Worker.id, Worker.lanes).where(Worker.seen_at > db_now() - LIVE_S))
        if lane in row.lanes
    ]
    if not live:
        return set()
    refused = connection.execute(
        select(Refusal.spec_id, func.count())
        .where(Refusal.worker_id.in_(live), Refusal.refused_at > db_now() - REFUSAL_S)
        .group_by(Refusal.spec_id)
    )
    return {spec_id for spec_id, n in refused if n == len(live)}


def put_back(database: Database, shard_ids: list[int]) -> None:
    """Undo `take` or decline a hint: the shards are planned again, as if nothing had been."""
    database.write(
        lambda connection: connection.execute(
            update(Shard)
            .where(Shard.id.in_(shard_ids), Shard.state == "queued")
            .values(state="planned", dispatched_at=None)
        )
    )


def refuse(database: Database, worker_id: str, spec_id: int, reason: str) -> None:
    """Note that a worker cannot serve a spec, and why. A worker that is not on the list has no say."""
    values = {"reason": reason, "refused_at": db_now()}
    statement = (
        database.insert(Refusal)
        .values(worker_id=worker_id, spec_id=spec_id, **values)
        .on_conflict_do_update(index_elements=["worker_id", "spec_id"], set_=values)
    )

    def work(connection: Connection) -> None:
        if connection.scalar(select(Worker.id).where(Worker.id == worker_id)) is not None:
            connection.execute(statement)

    database.write(work)


def accept(database: Database, worker_id: str, spec_id: int) -> None:
    """Note that a worker can serve a spec after all."""
    database.write(
        lambda connection: connection.execute(
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
) -> None:
    """Enter a device process into the list of workers."""
    row = {"host": host, "pid": pid, "device": device, "lanes": lanes, "slots": slots, "version": version}
    statement = (
        database.insert(Worker)
        .values(id=worker_id, started_at=db_now(), seen_at=db_now(), **row)
        .on_conflict_do_update(index_elements=["id"], set_={"seen_at": db_now(), **row})
    )
    database.write(lambda connection: connection.execute(statement))


def sign_off(database: Database, worker_id: str) -> None:
    """Strike a device process off the list of workers, with what it refused."""

    def work(connection: Connection) -> None:
        connection.execute(delete(Refusal).where(Refusal.worker_id == worker_id))
        connection.execute(delete(Worker).where(Worker.id == worker_id))

    database.write(work)
