"""Whether the workers of a machine live and take from the queue, by what they say of themselves in the store."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from storage.core.database import Database, db_now
from storage.core.schema import Worker

SILENT_S = 60.0  # of a worker that was silent for longer nothing is expected


@dataclass(frozen=True)
class Health:
    """The device processes of a machine, and what is wrong with them; nothing when all is well."""

    workers: int
    problem: str | None


def health(database: Database, host: str, within_s: float = SILENT_S) -> Health:
    """How the device processes of a host are that were heard of within this time: each is to take from the queue."""
    query = select(
        Worker.device,
        Worker.trouble,
        Worker.device_problem,
        (db_now() - Worker.started_at).label("age_s"),
        (db_now() - Worker.consumed_at).label("idle_s"),
    ).where(Worker.host == host, Worker.seen_at > db_now() - within_s)
    with database.read() as connection:
        found = connection.execute(query.order_by(Worker.device)).all()
    if not found:
        return Health(0, f"no worker of {host} gave a sign of life within {within_s:g} s")
    for row in found:
        if row.trouble is not None:
            return Health(len(found), f"the worker on {row.device} cannot store what it does: {row.trouble}")
        if row.device_problem is not None:
            return Health(len(found), f"the worker on {row.device} can compute nothing: {row.device_problem}")
        silent_s = row.age_s if row.idle_s is None else row.idle_s
        if silent_s > within_s:
            return Health(
                len(found),
                f"the worker on {row.device} takes nothing from the queue, for {silent_s:.0f} s now: "
                "it has no connection to Redis, or hangs",
            )
    return Health(len(found), None)
