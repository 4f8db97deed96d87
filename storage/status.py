"""What a job has done and what it waits for: counts, pace, time left, and why nothing moves when nothing does."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Select, and_, func, select

from storage.database import Database, db_now
from storage.dispatch import LIVE_S
from storage.errors import NoSuchJob
from storage.jobs import UNFINISHED
from storage.rows import spec_of
from storage.schema import Corpus, Ingest, Job, Refusal, Shard, SpecRow, Step, Worker
from storage.specs import Spec

PACE_S = 120.0  # over how long the pace is taken
STALE_INGEST_S = 30.0
SILENT_S = 15.0  # three times as long as a worker needs for a sign of life


class Cause(StrEnum):
    """Why nothing moves."""

    READING = "reading"  # the reading of the source was cut off
    NO_WORKER = "no_worker"
    BLOCKED = "blocked"  # no live worker can serve the spec
    BACKING_OFF = "backing_off"
    LEASE = "lease"  # whoever held its shards is silent
    PAUSED = "paused"


@dataclass(frozen=True)
class Wait:
    """Why nothing moves, and a sentence about it that says what to do."""

    cause: Cause
    sentence: str


@dataclass(frozen=True)
class JobStatus:
    """A job at one moment. `done`, `failed`, `skipped` and `pending` count unique texts, `documents` documents.

    `state` is also `paused`. `truncated` are those of the done ones whose output stopped at the model's limit.

    `eta_s` comes from tokens: what is left in characters, by the job's own tokens per character and its pace of
    the last two minutes; None while nothing is known. `waiting_for` says why nothing moves, when nothing does, and
    `waiting_cause` says it in one word.
    """

    id: int
    state: str
    reason: str | None
    corpus: str
    source: str
    spec: Spec
    priority: int
    documents: int
    done: int
    failed: int
    skipped: int
    truncated: int
    pending: int
    prior: int
    shards: dict[str, int]
    records: int
    rejected: int
    repeated: int
    tokens_in: int
    tokens_out: int
    tokens_per_s: float
    eta_s: float | None
    created_at: float
    finished_at: float | None
    elapsed_s: float
    waiting_for: str | None
    waiting_cause: Cause | None

    @property
    def texts(self) -> int:
        return self.done + self.failed + self.skipped + self.pending

    @property
    def no_worker(self) -> bool:
        """Whether it waits for a worker to be started."""
        return self.waiting_cause == Cause.NO_WORKER

    @property
    def blocked(self) -> bool:
        """Whether no worker that lives can serve its spec."""
        return self.waiting_cause == Cause.BLOCKED

    @property
    def ended(self) -> bool:
        return self.state in {"done", "cancelled", "stopped"}


@dataclass(frozen=True)
class Standing:
    """What bears on whether a job moves. Ages in seconds.

    `refusals` are those of the lane's live workers, newest first; where no worker lives, the last one's.
    """

    state: str
    lane: str
    pending: int
    running: int  # shards whose holder gave a sign of life lately
    silent: int  # shards whose holder did not
    ingest_age_s: float | None
    workers: int
    workers_of_lane: int
    refusals: tuple[str, ...]
    next_try_s: float | None = None  # while all that is left waits after an error
    lapse_s: float = 0.0  # when the first lease of a silent holder lapses


def waiting_for(standing: Standing) -> Wait | None:
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
            f"no live worker serves lane {standing.lane}{others}; start one with `docmill worker`"
            + (refused or (f" ({silent})" if silent else "")),
        )
    if silent:
        return Wait(Cause.LEASE, silent)
    if len(standing.refusals) >= standing.workers_of_lane:
        return Wait(Cause.BLOCKED, f"blocked: {standing.refusals[0]}")
    if standing.next_try_s is not None and standing.next_try_s > 0:
        return Wait(
            Cause.BACKING_OFF,
            f"its attempts failed for a reason that may pass; the next one is in {standing.next_try_s:.0f} s",
        )
    return None


def _silent(standing: Standing) -> str | None:
    if not standing.silent:
        return None
    shards = "1 shard is" if standing.silent == 1 else f"{standing.silent} shards are"
    return (
        f"{shards} held by a worker that gives no sign of life; "
        f"free for another in {max(standing.lapse_s, 0.0):.0f} s, when the lease lapses"
    )


def read_status(database: Database, job_id: int) -> JobStatus:
    """The state of one job. Raises NoSuchJob."""
    with database.read() as connection:
        row = connection.execute(_JOBS.where(Job.id == job_id)).one_or_none()
        if row is None:
            raise NoSuchJob(f"there is no job {job_id}; `docmill jobs` lists them")
        return _status(connection, row)


def list_statuses(database: Database, limit: int = 50) -> list[JobStatus]:
    """The latest jobs, newest first."""
    with database.read() as connection:
        rows = connection.execute(_JOBS.order_by(Job.id.desc()).limit(limit)).all()
        return [_status(connection, row) for row in rows]


_JOBS: Select[*tuple[Any, ...]] = (
    select(
        Job,
        Corpus.name.label("corpus"),
        Ingest.source,
        Ingest.state.label("ingest_state"),
        Ingest.n_records,
        Ingest.n_rejected,
        Ingest.n_repeated,
        (db_now() - Ingest.seen_at).label("ingest_age_s"),
        db_now().label("now"),
        Step.spec_id,
        SpecRow.kind,
        SpecRow.model,
        SpecRow.revision,
        SpecRow.quality,
        SpecRow.params,
    )
    .join(Corpus, Corpus.id == Job.corpus_id)
    .join(Ingest, Ingest.id == Job.ingest_id)
    .join(Step, and_(Step.job_id == Job.id, Step.seq == 0))
    .join(SpecRow, SpecRow.id == Step.spec_id)
)


def _status(connection: Connection, row: Any) -> JobStatus:
    groups = {
        group.state: group
        for group in connection.execute(
            select(
                Shard.state,
                func.count().label("shards"),
                *(
                    func.sum(column).label(column.key)
                    for column in (
                        Shard.n_contents,
                        Shard.n_chars,
                        Shard.n_done,
                        Shard.n_failed,
                        Shard.n_skipped,
                        Shard.n_truncated,
                        Shard.tokens_in,
                        Shard.tokens_out,
                    )
                ),
            )
            .where(Shard.job_id == row.id)
            .group_by(Shard.state)
        )
    }

    def total(name: str, *states: str) -> int:
        return sum(int(getattr(groups[state], name)) for state in states or groups if state in groups)

    pace = _pace(connection, row.id, row.now)
    left_chars = total("n_chars", "planned", "queued", "running")
    finished_chars, tokens_in = total("n_chars", "done"), total("tokens_in")
    eta_s = None
    if pace > 0 and finished_chars > 0:
        eta_s = left_chars * tokens_in / finished_chars / pace
    ended = row.state not in UNFINISHED
    pending = total("n_contents", "planned", "queued", "running")
    shards = {state: int(group.shards) for state, group in groups.items()}
    wait = waiting_for(_standing(connection, row, pending, shards))
    return JobStatus(
        id=row.id,
        state=_state(row),
        reason=row.reason,
        corpus=row.corpus,
        source=row.source,
        spec=spec_of(row),
        priority=row.priority,
        documents=row.n_documents,
        done=row.n_prior_done + total("n_done"),
        failed=row.n_prior_failed + total("n_failed") - row.n_retried,
        skipped=row.n_prior_skipped + total("n_skipped"),
        truncated=row.n_prior_truncated + total("n_truncated"),
        pending=pending,
        prior=row.n_prior_done + row.n_prior_failed + row.n_prior_skipped,
        shards=shards,
        records=row.n_records,
        rejected=row.n_rejected,
        repeated=row.n_repeated,
        tokens_in=tokens_in,
        tokens_out=total("tokens_out"),
        tokens_per_s=0.0 if ended else pace,
        eta_s=None if ended else eta_s,
        created_at=row.created_at,
        finished_at=row.finished_at,
        elapsed_s=(row.finished_at or row.now) - row.created_at,
        waiting_for=wait.sentence if wait else None,
        waiting_cause=wait.cause if wait else None,
    )


def _state(row: Any) -> str:
    return "paused" if row.paused and row.state in UNFINISHED else str(row.state)


def _pace(connection: Connection, job_id: int, now: float) -> float:
    """Tokens read per second over the shards that ended in the last two minutes."""
    tokens, first = connection.execute(
        select(func.sum(Shard.tokens_in), func.min(Shard.started_at)).where(
            Shard.job_id == job_id, Shard.state == "done", Shard.finished_at > now - PACE_S
        )
    ).one()
    return float(tokens) / max(now - first, 0.001) if tokens and first is not None else 0.0


def _standing(connection: Connection, row: Any, pending: int, shards: dict[str, int]) -> Standing:
    workers = connection.execute(select(Worker.id, Worker.lanes).where(Worker.seen_at > db_now() - LIVE_S)).all()
    of_lane = [worker.id for worker in workers if row.kind in worker.lanes]
    refusals = (
        select(Refusal.reason).where(Refusal.spec_id == row.spec_id).order_by(Refusal.refused_at.desc()).limit(1_000)
    )
    if of_lane:
        refusals = refusals.where(Refusal.worker_id.in_(of_lane))
    running, silent, lapse_s = _holders(connection, row) if shards.get("running") else (0, 0, 0.0)
    next_try_s = None
    if shards.keys() & {"planned", "queued", "running"} == {"planned"}:
        earliest = select(func.min(Shard.not_before)).where(Shard.job_id == row.id, Shard.state == "planned")
        next_try_s = (connection.scalar(earliest) or 0.0) - row.now
    return Standing(
        state=_state(row),
        lane=row.kind,
        pending=pending,
        running=running,
        silent=silent,
        ingest_age_s=row.ingest_age_s if row.ingest_state == "reading" else None,
        workers=len(workers),
        workers_of_lane=len(of_lane),
        refusals=tuple(connection.scalars(refusals)),
        next_try_s=next_try_s,
        lapse_s=lapse_s,
    )


def _holders(connection: Connection, row: Any) -> tuple[int, int, float]:
    """How many running shards have a holder that lives, how many one that is silent, and when the first of those
    is free again, in seconds.
    """
    held = connection.execute(
        select(Shard.lease_until, Worker.seen_at)
        .outerjoin(Worker, Worker.id == Shard.owner)
        .where(Shard.job_id == row.id, Shard.state == "running")
    ).all()
    silent = [shard.lease_until for shard in held if (shard.seen_at or 0.0) < row.now - SILENT_S]
    return len(held) - len(silent), len(silent), min(silent, default=row.now) - row.now
