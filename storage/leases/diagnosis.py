"""Diagnose why a job makes no progress, and find problems of a machine's workers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Worker, db_now
from docmill.storage.steps.jobs import UNFINISHED

STALE_INGEST_S = 30.0
UNHEALTHY_S = 60.0  # a worker that was silent for longer says nothing of its health
UNBLOCKING = (
    "Every worker refuses it, and is asked again each half minute: it goes on by itself once one can serve it; "
    "`docmill cancel` drops it"
)


class Cause(StrEnum):
    """The reason why a job makes no progress."""

    READING = "reading"  # the source is slow, or its reading was cut off
    NO_WORKER = "no_worker"
    BLOCKED = "blocked"  # no live worker can serve the spec
    BACKING_OFF = "backing_off"
    STORE = "store"  # the store refuses what its workers write
    LEASE = "lease"  # the worker that holds its shards is silent
    PAUSED = "paused"
    COST = "cost"  # it has reached a cost limit


@dataclass(frozen=True)
class JobSnapshot:
    """The facts that decide whether a job makes progress. Ages are in seconds.

    `refusals` are those of the lane's live workers, newest first; without a live worker, the last refusal.
    """

    state: str
    lane: str
    pending: int
    running: int  # shards whose worker sent a heartbeat lately and reports no trouble
    silent: int  # shards whose worker sent no heartbeat lately
    ingest_age_s: float | None
    workers: int
    workers_of_lane: int
    refusals: tuple[str, ...]
    next_try_s: float | None = None  # until the first retry, if every shard left waits for one
    lapse_s: float = 0.0  # until the first lease of a silent worker lapses
    trouble: str | None = None  # the store's error, if every worker of the lane reports one
    limit: str | None = None  # a sentence on the cost limit that it has reached


def waiting_for(standing: JobSnapshot) -> tuple[Cause, str] | None:
    """Return why a job makes no progress, and a sentence that says what to do; None if it makes some."""
    if standing.state not in {*UNFINISHED, "paused"}:
        return None
    if standing.state == "paused":
        return Cause.PAUSED, "it is paused; `docmill resume` lets it go on"
    if standing.ingest_age_s is not None and standing.ingest_age_s > STALE_INGEST_S:
        return Cause.READING, (
            f"nothing came from its source for {standing.ingest_age_s:.0f} s; if the command that reads it has "
            "ended, run the same command again to carry it on"
        )
    if standing.pending == 0 or standing.running:
        return None
    if standing.limit is not None:
        return Cause.COST, standing.limit
    silent = _describe_silence(standing)
    if standing.workers_of_lane == 0:
        others = f" ({standing.workers} serve other lanes)" if standing.workers else ""
        refused = f"; the last one refused: {standing.refusals[0]}" if standing.refusals else ""
        return Cause.NO_WORKER, (
            f"no live worker serves lane {standing.lane}{others}; start one with `docmill worker`, or repeat the "
            "command if it was `docmill run`" + (refused or (f" ({silent})" if silent else ""))
        )
    if standing.trouble is not None:
        return Cause.STORE, (
            "its worker cannot write to the store, and tries again every half minute at the latest: "
            f"{standing.trouble}"
        )
    if silent:
        return Cause.LEASE, silent
    if len(standing.refusals) >= standing.workers_of_lane:
        return Cause.BLOCKED, f"blocked: {standing.refusals[0].removesuffix('.')}. {UNBLOCKING}"
    if (next_s := standing.next_try_s) is not None and next_s > 0:
        return Cause.BACKING_OFF, f"its attempts failed for a reason that may pass; the next one is in {next_s:.0f} s"
    return None


def _describe_silence(standing: JobSnapshot) -> str | None:
    if not standing.silent:
        return None
    shards = "1 shard is" if standing.silent == 1 else f"{standing.silent} shards are"
    return (
        f"{shards} held by a worker that gives no sign of life; "
        f"free for another in {max(standing.lapse_s, 0.0):.0f} s, when the lease lapses"
    )


def check_health(database: Database, host: str, within_s: float = UNHEALTHY_S) -> tuple[int, str | None]:
    """Return the number of a host's device processes that sent a heartbeat lately, and the first problem if any.

    A process that has taken nothing from the queue for `within_s` has a problem.
    """
    query = select(
        Worker.device,
        Worker.trouble,
        Worker.device_problem,
        (db_now() - Worker.started_at).label("age_s"),
        (db_now() - Worker.consumed_at).label("idle_s"),
    ).where(Worker.host == host, Worker.seen_at > db_now() - within_s)
    workers = database.rows(query.order_by(Worker.device))
    if not workers:
        return 0, f"no worker of {host} gave a sign of life within {within_s:g} s"
    for row in workers:
        if row.trouble is not None:
            return len(workers), f"the worker on {row.device} cannot store what it does: {row.trouble}"
        if row.device_problem is not None:
            return len(workers), f"the worker on {row.device} can compute nothing: {row.device_problem}"
        silent_s = row.age_s if row.idle_s is None else row.idle_s
        if silent_s > within_s:
            return (
                len(workers),
                f"the worker on {row.device} has taken nothing from the queue for {silent_s:.0f} s: "
                "it has no connection to Redis, or hangs; its log says which",
            )
    return len(workers), None
