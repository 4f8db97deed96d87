"""The status of a job: counts, pace, time left, and the reason why it makes no progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, func, select

from storage.core.clock import db_now
from storage.core.database import Database
from storage.core.doubts import Doubt
from storage.core.get_or_create import SPEC, spec_of
from storage.core.schema import Corpus, Ingest, Job, Refusal, Shard, SpecRow, Step, Worker
from storage.core.specs import Spec
from storage.core.transaction import Transaction
from storage.errors import NoSuchJob
from storage.leases.dispatch import LIVE_S
from storage.leases.stall_diagnosis import Cause, JobSnapshot, Wait, waiting_for
from storage.results.step_status import StepStatus as StepStatus
from storage.results.step_status import with_escalation
from storage.steps import replacements
from storage.steps.jobs import OPEN_SHARDS, UNFINISHED
from storage.steps.lost_results import count_lost, count_removed, may_be_lost
from storage.steps.steps import of_job

PACE_S = 120.0  # over how long the pace is taken
BLOCKED = "blocked"
SILENT_S = 15.0  # three times as long as a worker needs for a sign of life


@dataclass(frozen=True)
class JobStatus:
    """A job at one moment. `done`, `failed`, `skipped` and `pending` count unique texts, `documents` documents.

    Of a job with several `steps` the counts are the sums over all of them.

    `state` is also `paused`, and `blocked` while every live worker refuses what is left. `truncated` are those of the
    done ones whose output stopped at the model's limit, without those of steps with an escalation: it may have
    replaced them, and the flags of the results say how many are left.

    `computed` texts of those to do are computed and not yet written, in part where windows are left.
    `tokens_per_s` is the pace of the last two minutes, 0 where no worker is at it. Of a job that has ended it is the
    mean from its first shard to its last.

    `eta_s` comes from tokens: what is left in characters, by the job's own tokens per character and its pace of
    the last two minutes; None while nothing is known. `waiting_for` says why nothing moves, when nothing does, and
    `waiting_cause` says it in one word. `not_pruned` says why documents that are missing from the source were not
    marked as vanished. `lost` counts documents of a job that is done whose results were removed since, and `removed`
    its documents that were removed with results; `list_statuses` does not look for them.
    """

    id: int
    state: str
    reason: str | None
    corpus: str
    source: str
    steps: tuple[StepStatus, ...]
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
    computed: float
    tokens_per_s: float
    eta_s: float | None
    created_at: float
    finished_at: float | None
    elapsed_s: float
    waiting_for: str | None
    waiting_cause: Cause | None
    not_pruned: str | None = None
    lost: int = 0
    removed: int = 0

    @property
    def spec(self) -> Spec:
        """The first step's."""
        return self.steps[0].spec

    @property
    def is_backfill(self) -> bool:
        """True if the job computes a corpus by the model that it is migrated to."""
        return replacements.is_backfill(self.source)

    @property
    def computing(self) -> tuple[StepStatus, ...]:
        """All that have shards, by number: the steps, and after them the escalations."""
        return (*self.steps, *(step.escalated for step in self.steps if step.escalated is not None))

    @property
    def texts(self) -> int:
        return self.done + self.failed + self.skipped + self.pending

    @property
    def no_worker(self) -> bool:
        """True if the job waits for a worker to be started."""
        return self.waiting_cause == Cause.NO_WORKER

    @property
    def blocked(self) -> bool:
        """True if no live worker can serve its spec."""
        return self.waiting_cause == Cause.BLOCKED

    @property
    def ended(self) -> bool:
        return self.state in {"done", "cancelled", "stopped"}


def read_status(database: Database, job_id: int) -> JobStatus:
    """The state of one job. Raises NoSuchJob."""
    with database.read() as transaction:
        row = transaction.execute(_JOBS.where(Job.id == job_id)).one_or_none()
        if row is None:
            raise NoSuchJob(f"there is no job {job_id}; `docmill jobs` lists them")
        found = _Found.of(row)
        status = _status(transaction, found)
        steps, job = of_job(transaction, job_id), found.job
        if not may_be_lost(transaction, job, steps):
            return status
        return replace(status, lost=count_lost(transaction, job, steps), removed=count_removed(transaction, job))


def list_statuses(database: Database, limit: int = 50) -> list[JobStatus]:
    """The latest jobs, newest first."""
    with database.read() as transaction:
        rows = transaction.execute(_JOBS.order_by(Job.id.desc()).limit(limit)).all()
        return [_status(transaction, _Found.of(row)) for row in rows]


@dataclass(frozen=True)
class _Found:
    """A job, with its corpus and reading. `now` is the database's clock."""

    job: Job
    corpus: str
    source: str
    ingest_state: str
    n_records: int
    n_rejected: int
    n_repeated: int
    not_pruned: str | None
    ingest_age_s: float
    now: float

    @classmethod
    def of(cls, row: Row[*tuple[Any, ...]]) -> _Found:
        """Return the row of `_JOBS`, whose first columns are the job's."""
        return cls(Job.of(row), *row[len(Job.__table__.columns) :])

    @property
    def state(self) -> str:
        return "paused" if self.job.paused and self.job.state in UNFINISHED else self.job.state


_JOBS: Select[*tuple[Any, ...]] = (
    select(
        Job,
        Corpus.name.label("corpus"),
        Ingest.source,
        Ingest.state.label("ingest_state"),
        Ingest.n_records,
        Ingest.n_rejected,
        Ingest.n_repeated,
        Ingest.not_pruned,
        (db_now() - Ingest.seen_at).label("ingest_age_s"),
        db_now().label("now"),
    )
    .join(Corpus, Corpus.id == Job.corpus_id)
    .join(Ingest, Ingest.id == Job.ingest_id)
)


def _status(transaction: Transaction, found: _Found) -> JobStatus:
    job = found.job
    sums = _Sums(transaction, job.id)
    steps = _steps(transaction, job.id, sums)
    pace = _pace(transaction, job.id, found.now)
    finished_chars, tokens_in = sums.total("n_chars", "done"), sums.total("tokens_in")
    eta_s = None
    if pace > 0 and finished_chars > 0:
        eta_s = sums.total("n_chars", *OPEN_SHARDS) * tokens_in / finished_chars / pace
    ended = job.state not in UNFINISHED
    wait = _wait(transaction, found, sums)
    if wait is not None:  # what was computed before says nothing of when this ends
        pace, eta_s = 0.0, None
    return JobStatus(
        id=job.id,
        state=BLOCKED if wait is not None and wait.cause is Cause.BLOCKED else found.state,
        reason=job.reason,
        corpus=found.corpus,
        source=found.source,
        steps=steps,
        priority=job.priority,
        documents=job.n_documents,
        done=sum(step.done for step in steps),
        failed=sum(step.failed for step in steps),
        skipped=sum(step.skipped for step in steps),
        truncated=sum(step.truncated for step in steps if step.escalated is None),
        pending=sum(step.pending for step in steps),
        prior=sum(step.prior for step in steps),
        shards=sums.shards(),
        records=found.n_records,
        rejected=found.n_rejected,
        repeated=found.n_repeated,
        tokens_in=tokens_in,
        tokens_out=sums.total("tokens_out"),
        computed=_computed(transaction, job.id) if sums.shards().get("running") else 0.0,
        tokens_per_s=_rate(transaction, job.id) if ended else pace,
        eta_s=None if ended else eta_s,
        created_at=job.created_at,
        finished_at=job.finished_at,
        elapsed_s=(job.finished_at or found.now) - job.created_at,
        waiting_for=wait.sentence if wait else None,
        waiting_cause=wait.cause if wait else None,
        not_pruned=found.not_pruned,
    )


class _Sums:
    """A job's shards in numbers, by step and state."""

    def __init__(self, transaction: Transaction, job_id: int) -> None:
        columns = (
            *(Shard.n_contents, Shard.n_chars, Shard.n_done, Shard.n_failed, Shard.n_skipped, Shard.n_truncated),
            *(Shard.tokens_in, Shard.tokens_out),
        )
        sums = (func.sum(column).label(column.key) for column in columns)
        query = select(Shard.step, Shard.state, func.count().label("shards"), *sums).where(Shard.job_id == job_id)
        self._groups = transaction.execute(query.group_by(Shard.step, Shard.state)).all()

    def total(self, name: str, *states: str, step: int | None = None) -> int:
        """The sum of a column over the shards in any of these states, or in any at all."""
        return sum(
            int(getattr(group, name))
            for group in self._groups
            if (not states or group.state in states) and (step is None or group.step == step)
        )

    def shards(self, step: int | None = None) -> dict[str, int]:
        """Return the number of shards by state."""
        found = {group.state for group in self._groups if step is None or group.step == step}
        return {state: self.total("shards", state, step=step) for state in sorted(found)}

    def open_steps(self) -> list[int]:
        return sorted({group.step for group in self._groups if group.state in OPEN_SHARDS})


def _steps(transaction: Transaction, job_id: int, sums: _Sums) -> tuple[StepStatus, ...]:
    columns = (Step.seq, Step.name, Step.input_step, Step.n_prior_done, Step.n_prior_failed, Step.n_prior_skipped)
    rows = transaction.execute(
        select(*columns, Step.n_prior_truncated, Step.n_retried, Step.escalates, Step.doubted, Step.n_rescued, *SPEC)
        .join(SpecRow, SpecRow.id == Step.spec_id)
        .where(Step.job_id == job_id)
        .order_by(Step.seq)
    ).all()
    steps: list[StepStatus] = []
    for row in rows:
        read = None if row.input_step is None else steps[row.input_step]
        found = StepStatus(
            name=row.name,
            input=None if read is None else read.name,
            spec=spec_of(row),
            done=row.n_prior_done + sums.total("n_done", step=row.seq),
            failed=row.n_prior_failed + sums.total("n_failed", step=row.seq) - row.n_retried,
            skipped=row.n_prior_skipped + sums.total("n_skipped", step=row.seq),
            blocked=0,
            truncated=row.n_prior_truncated + sums.total("n_truncated", step=row.seq),
            pending=sums.total("n_contents", *OPEN_SHARDS, step=row.seq),
            prior=row.n_prior_done + row.n_prior_failed + row.n_prior_skipped,
            tokens_in=sums.total("tokens_in", step=row.seq),
            tokens_out=sums.total("tokens_out", step=row.seq),
        )
        if row.escalates is None:
            steps.append(found)
        else:
            rescued = row.n_rescued if Doubt.stored(row.doubted).failed else None
            steps[row.escalates] = with_escalation(steps[row.escalates], found, rescued)
    return _with_blocked(steps)


def _with_blocked(steps: Sequence[StepStatus]) -> tuple[StepStatus, ...]:
    """Return the steps with the numbers of their blocked texts; each reads the documents or an earlier step."""
    found: dict[str, StepStatus] = {}
    for step in steps:
        read = None if step.input is None else found[step.input]
        blocked = 0 if read is None else read.failed + read.skipped + read.blocked
        found[step.name] = replace(step, blocked=blocked)
    return tuple(found.values())


def _wait(transaction: Transaction, found: _Found, sums: _Sums) -> Wait | None:
    """Return why a job makes no progress: the reason of its first open step, if no other step makes any."""
    waits = [waiting_for(_standing(transaction, found, step, sums)) for step in sums.open_steps() or [0]]
    return None if None in waits else waits[0]


def _pace(transaction: Transaction, job_id: int, now: float) -> float:
    """Tokens read per second over the shards that ended in the last two minutes."""
    tokens, first = transaction.execute(
        select(func.sum(Shard.tokens_in), func.min(Shard.started_at)).where(
            Shard.job_id == job_id, Shard.state == "done", Shard.finished_at > now - PACE_S
        )
    ).one()
    return float(tokens) / max(now - first, 0.001) if tokens and first is not None else 0.0


def _rate(transaction: Transaction, job_id: int) -> float:
    """Return the tokens that a job which has ended read per second, from its first shard to its last."""
    tokens, first, last = transaction.execute(
        select(func.sum(Shard.tokens_in), func.min(Shard.started_at), func.max(Shard.finished_at)).where(
            Shard.job_id == job_id, Shard.state == "done"
        )
    ).one()
    return float(tokens) / max(last - first, 0.001) if tokens and first is not None and last is not None else 0.0


def _computed(transaction: Transaction, job_id: int) -> float:
    """Return how many of a job's texts the workers that live have computed and not yet written."""
    said = transaction.scalars(select(Worker.computed).where(Worker.seen_at > db_now() - LIVE_S)).all()
    return sum(float(one.get(str(job_id), 0.0)) for one in said if one)


def _standing(transaction: Transaction, found: _Found, seq: int, sums: _Sums) -> JobSnapshot:
    step = transaction.execute(
        select(Step.spec_id, SpecRow.kind)
        .join(SpecRow, SpecRow.id == Step.spec_id)
        .where(Step.job_id == found.job.id, Step.seq == seq)
    ).one()
    columns = (Worker.id, Worker.lanes, Worker.trouble)
    workers = transaction.execute(select(*columns).where(Worker.seen_at > db_now() - LIVE_S)).all()
    serving = [worker for worker in workers if step.kind in worker.lanes]
    of_lane = [worker.id for worker in serving]
    refusals = (
        select(Refusal.reason).where(Refusal.spec_id == step.spec_id).order_by(Refusal.refused_at.desc()).limit(1_000)
    )
    if of_lane:
        refusals = refusals.where(Refusal.worker_id.in_(of_lane))
    shards = sums.shards(seq)
    mine = and_(Shard.job_id == found.job.id, Shard.step == seq)
    holders = _holders(transaction, found.now, mine) if shards.get("running") else _NO_HOLDERS
    troubles = [*holders.troubles, *(worker.trouble for worker in serving if worker.trouble is not None)]
    next_try_s = None
    if shards.keys() & {*OPEN_SHARDS} == {"planned"}:
        earliest = select(func.min(Shard.not_before)).where(mine, Shard.state == "planned")
        next_try_s = (transaction.scalar(earliest) or 0.0) - found.now
    return JobSnapshot(
        state=found.state,
        lane=step.kind,
        pending=sums.total("n_contents", *OPEN_SHARDS, step=seq),
        running=holders.running,
        silent=holders.silent,
        ingest_age_s=found.ingest_age_s if found.ingest_state == "reading" else None,
        workers=len(workers),
        workers_of_lane=len(of_lane),
        refusals=tuple(transaction.scalars(refusals)),
        next_try_s=next_try_s,
        lapse_s=holders.lapse_s,
        trouble=troubles[0] if holders.troubles or (troubles and len(troubles) == len(serving)) else None,
        is_backfill=replacements.is_backfill(found.source),
    )


@dataclass(frozen=True)
class _Holders:
    """The holders of a step's running shards.

    `running` counts shards of live workers without trouble, and `silent` those of silent workers. The first lease of
    a silent worker lapses in `lapse_s` seconds.
    """

    running: int
    silent: int
    lapse_s: float
    troubles: tuple[str, ...]


_NO_HOLDERS = _Holders(0, 0, 0.0, ())


def _holders(transaction: Transaction, now: float, mine: ColumnElement[bool]) -> _Holders:
    held = transaction.execute(
        select(Shard.lease_until, Worker.seen_at, Worker.trouble)
        .outerjoin(Worker, Worker.id == Shard.owner)
        .where(mine, Shard.state == "running")
    ).all()
    silent = [shard.lease_until for shard in held if (shard.seen_at or 0.0) < now - SILENT_S]
    live = [shard.trouble for shard in held if (shard.seen_at or 0.0) >= now - SILENT_S]
    troubles = tuple(trouble for trouble in live if trouble is not None)
    return _Holders(len(live) - len(troubles), len(silent), min(silent, default=now) - now, troubles)
