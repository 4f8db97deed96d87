"""Check that the workers of a machine live and take from the queue, by their rows in the store."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Worker
from docmill.storage.core.tables import db_now

SILENT_S = 60.0  # a worker that was silent for longer is not counted


@dataclass(frozen=True)
class Health:
    """The number of device processes of a machine, and the first problem of one; None if all are well."""

    workers: int
    problem: str | None


def health(database: Database, host: str, within_s: float = SILENT_S) -> Health:
    """Return the health of a host's device processes that sent a heartbeat within `within_s`.

    A process that has taken nothing from the queue for that long has a problem.
    """
    query = select(
        Worker.device,
        Worker.trouble,
        Worker.device_problem,
        (db_now() - Worker.started_at).label("age_s"),
        (db_now() - Worker.consumed_at).label("idle_s"),
    ).where(Worker.host == host, Worker.seen_at > db_now() - within_s)
    with database.read() as transaction:
        found = transaction.execute(query.order_by(Worker.device)).all()
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
                f"the worker on {row.device} has taken nothing from the queue for {silent_s:.0f} s: "
                "it has no connection to Redis, or hangs; its log says which",
            )
    return Health(len(found), None)
