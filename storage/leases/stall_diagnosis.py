"""Why nothing moves, when nothing does. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from storage.steps.jobs import UNFINISHED

STALE_INGEST_S = 30.0
UNBLOCKING = (
    "Every worker refuses it, and is asked again each half minute: it goes on by itself once one can serve it; "
    "`docmill cancel` drops it"
)


class Cause(StrEnum):
    """Why nothing moves."""

    READING = "reading"  # the reading of the source was cut off
    NO_WORKER = "no_worker"
    BLOCKED = "blocked"  # no live worker can serve the spec
    BACKING_OFF = "backing_off"
    STORE = "store"  # the store refuses what its workers write
    LEASE = "lease"  # whoever held its shards is silent
    PAUSED = "paused"


@dataclass(frozen=True)
class Wait:
    """Why nothing moves, and a sentence about it that says what to do."""

    cause: Cause
    sentence: str


@dataclass(frozen=True)
class JobSnapshot:
    """What bears on whether a job moves. Ages in seconds.

    `refusals` are those of the lane's live workers, newest first; where no worker lives, the last one's.
    """

    state: str
    lane: str
    pending: int
    running: int  # shards whose holder gave a sign of life lately, and of no trouble
    silent: int  # shards whose holder did not
    ingest_age_s: float | None
    workers: int
    workers_of_lane: int
    refusals: tuple[str, ...]
    next_try_s: float | None = None  # while all that is left waits after an error
    lapse_s: float = 0.0  # when the first lease of a silent holder lapses
    trouble: str | None = None  # the store's refusal, if every worker that could go on with it has one


def waiting_for(standing: JobSnapshot) -> Wait | None:
    """Why nothing moves; None when something does. Pure."""
    if standing.state not in {*UNFINISHED, "paused"}:
        return None
    if standing.state == "paused":
        return Wait(Cause.PAUSED, "it is paused; `docmill resume` lets it go on")
    if standing.ingest_age_s is not None and standing.ingest_age_s > STALE_INGEST_S:
        return Wait(
            Cause.READING,
            f"the reading of its source stopped {standing.ingest_age_s:.0f} s ago; "
            "run the same command again to carry it on",
        )
    if standing.pending == 0 or standing.running:
        return None
    silent = _silent(standing)
    if standing.workers_of_lane == 0:
        others = f" ({standing.workers} serve other lanes)" if standing.workers else ""
        refused = f"; the last one refused: {standing.refusals[0]}" if standing.refusals else ""
        return Wait(
            Cause.NO_WORKER,
            f"no live worker serves lane {standing.lane}{others}; start one with `docmill worker`, or repeat its "
            "`docmill run`" + (refused or (f" ({silent})" if silent else "")),
        )
    if standing.trouble is not None:
        return Wait(
            Cause.STORE,
            f"its worker cannot write to the store, and tries again every half minute at the latest: "
            f"{standing.trouble}",
        )
    if silent:
        return Wait(Cause.LEASE, silent)
    if len(standing.refusals) >= standing.workers_of_lane:
        return Wait(Cause.BLOCKED, f"blocked: {standing.refusals[0].removesuffix('.')}. {UNBLOCKING}")
    if standing.next_try_s is not None and standing.next_try_s > 0:
        return Wait(
            Cause.BACKING_OFF,
            f"its attempts failed for a reason that may pass; the next one is in {standing.next_try_s:.0f} s",
        )
    return None


def _silent(standing: JobSnapshot) -> str | None:
    if not standing.silent:
        return None
    shards = "1 shard is" if standing.silent == 1 else f"{standing.silent} shards are"
    return (
        f"{shards} held by a worker that gives no sign of life; "
        f"free for another in {max(standing.lapse_s, 0.0):.0f} s, when the lease lapses"
    )
