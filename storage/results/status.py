"""The status of a job: counts, pace, time left, and the reason why it makes no progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from types import MappingProxyType
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Select, and_, select

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import SPEC, spec_of
from docmill.storage.core.schema import AnyRow, Budget, Corpus, Ingest, Job, RejectionRow, SpecRow, Step, db_now
from docmill.storage.core.specs import Spec
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion.needed import RESULTS
from docmill.storage.leases.diagnosis import Cause, JobSnapshot, waiting_for
from docmill.storage.results.fleet import FRESH_S, TimeShares, Workers, read_workers
from docmill.storage.results.time_left import (
    HeldShard,
    ShardSums,
    StepWork,
    TimeLeft,
    estimate,
    read_held_lately,
    read_shard_sums,
)
from docmill.storage.steps import budgets, replacements
from docmill.storage.steps.conditions import Doubt
from docmill.storage.steps.jobs import MAY_BEGIN, PAUSED, UNFINISHED, missing
from docmill.storage.steps.lineage import count_lost, count_removed, may_be_lost
from docmill.storage.steps.sharding import OPEN_SHARDS
from docmill.storage.steps.steps import Failures, OpenStep, read_steps

BLOCKED = "blocked"
_SHOWN_AS = {Cause.BLOCKED: BLOCKED, Cause.COST: "paused"}
STATES: Mapping[str, ColumnElement[bool]] = MappingProxyType(
    {
        "open": MAY_BEGIN,
        "paused": PAUSED,
        "done": Job.state == "done",
        "stopped": Job.state == "stopped",
        "cancelled": Job.state == "cancelled",
    }
)
_JobRow: TypeAlias = AnyRow  # of `_JOBS`
_StepRow: TypeAlias = AnyRow  # of `_steps`


@dataclass(frozen=True)
class StepStatus:
    """A step of a job at one moment, in unique texts.

    `blocked` counts texts of the step before that have no output for this step: they failed, or were skipped or
    blocked. `escalated` counts the texts of the escalation. A text that waits for its escalation is `pending`, not
    `done`.
    """

    name: str
    input: str | None  # another step's name; None reads the documents
    spec: Spec
    done: int
    failed: int
    skipped: int
    blocked: int
    truncated: int
    pending: int
    prior: int
    tokens_in: int
    tokens_out: int
    escalated: StepStatus | None = None

    @property
    def texts(self) -> int:
        return self.done + self.failed + self.skipped + self.pending


@dataclass(frozen=True)
class JobStatus:
    """A job at one moment. `done`, `failed`, `skipped` and `pending` count unique texts, `documents` documents.

    Of a job with several `steps` the counts are the sums over all of them.

    `state` may also be `paused`, and `blocked` while every live worker refuses the rest. `truncated` counts done
    texts whose output stopped at the model's limit. Steps with an escalation do not count: it may have replaced such
    an output, and the flags of the results say how many are left.

    `computed` of the pending texts are computed and not yet written; a text with open windows counts in part.
    `time_left` has the pace and the time left. The pace of an ended job is the mean from its first shard to its last;
    that of a job without progress is 0.

    `time_use` has the time shares of the workers that hold shards of it.

    `waiting_for` is the reason why the job makes no progress, or None; `waiting_cause` is that reason in one word.
    `not_pruned` says why documents that are missing from the source were not marked as vanished, or that documents of
    other sources stay. `list_statuses` does not look for what was removed since the job ended, and leaves these None:
    `lost` counts documents whose results were removed, `removed` those that were removed with results, and `swept`
    names the rules of retention that removed rows.
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
    time_left: TimeLeft
    time_use: TimeShares | None
    created_at: float
    finished_at: float | None
    elapsed_s: float
    waiting_for: str | None
    waiting_cause: Cause | None
    not_pruned: str | None = None
    lost: int | None = None
    removed: int | None = None
    swept: tuple[str, ...] | None = None
    request_id: str | None = None

    def __repr__(self) -> str:
        return f"JobStatus({self.id}, {self.state}, texts: {self._counts()})"

    def _counts(self) -> str:
        counts = {"done": self.done, "failed": self.failed, "skipped": self.skipped, "to do": self.pending}
        return ", ".join(f"{n:,} {name}" for name, n in counts.items() if n) or "none"

    def _repr_html_(self) -> str:
        """Return the job as a small table, for notebooks."""
        rows = {
            "job": f"{self.id} ({self.state})",
            "task": "; ".join(str(step.spec) for step in self.steps),
            "corpus": self.corpus,
            "documents": f"{self.documents:,}",
            "texts": self._counts(),
            "rejected": f"{self.rejected:,}" if self.rejected else "",
            "reason": self.reason or self.waiting_for or "",
        }
        cells = (f"<tr><th>{name}</th><td>{escape(value)}</td></tr>" for name, value in rows.items() if value)
        return f"<table>{''.join(cells)}</table>"

    @property
    def spec(self) -> Spec:
        """The first step's spec."""
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
    """Return the state of one job. Raises NotFound."""
    with database.read() as transaction:
        row = transaction.execute(_JOBS.where(Job.id == job_id)).one_or_none()
        if row is None:
            raise missing(transaction, job_id)
        return _with_losses(transaction, _statuses(transaction, [row])[0], Job.of(row))


def list_statuses(database: Database, limit: int = 50, wanted: ColumnElement[bool] | None = None) -> list[JobStatus]:
    """Return the latest jobs, newest first: all, or those that meet a condition."""
    query = (_JOBS if wanted is None else _JOBS.where(wanted)).order_by(Job.id.desc()).limit(limit)
    with database.read() as transaction:
        return _statuses(transaction, transaction.execute(query).all())


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


def _statuses(transaction: Transaction, rows: Sequence[_JobRow]) -> list[JobStatus]:
    """Return the statuses of jobs. The number of statements does not depend on the number of jobs."""
    if not rows:
        return []
    ids, now = [row.id for row in rows], rows[0].now
    sums = read_shard_sums(transaction, ids)
    steps = _steps(transaction, ids)
    moving = [row.id for row in rows if row.state in UNFINISHED]
    is_at_work = moving or any("running" in sums[job_id].shards() for job_id in ids)
    workers = read_workers(transaction, now) if is_at_work else Workers()
    held = read_held_lately(transaction, moving, now) if moving else {}
    reached = budgets.read_reached(transaction, {name for row in rows for name in (row.budget, row.sharer)})
    return [_status(row, sums[row.id], steps[row.id], workers, held.get(row.id, ()), reached) for row in rows]


def _status(
    job: _JobRow,
    sums: ShardSums,
    rows: Sequence[_StepRow],
    workers: Workers,
    held: Sequence[HeldShard],
    reached: Mapping[str, Budget],
) -> JobStatus:
    steps = _count_steps(rows, sums)
    ended = job.state not in UNFINISHED
    limit = reached.get(job.budget) or reached.get(job.sharer)
    wait = None if ended else _wait(job, sums, rows, workers, limit)
    cause, sentence = wait or (None, None)
    computed = workers.computed(job.id) if sums.shards().get("running") else 0.0
    if ended:
        left = sums.rate()
    elif cause is not None:  # an earlier pace does not tell when the job ends
        left = TimeLeft()
    else:
        reading = job.state == "ingesting"
        left = estimate(job.now, held, _works(rows, sums), computed=computed, reading=reading)
    return JobStatus(
        id=job.id,
        state=_state(job) if cause is None else _SHOWN_AS.get(cause, _state(job)),
        reason=job.reason,
        corpus=job.corpus,
        source=job.source,
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
        records=job.n_records,
        rejected=job.n_rejected,
        repeated=job.n_repeated,
        tokens_in=sums.total("tokens_in"),
        tokens_out=sums.total("tokens_out"),
        computed=computed,
        time_left=left,
        time_use=None if ended else workers.time_use(job.id),
        created_at=job.created_at,
        finished_at=job.finished_at,
        elapsed_s=(job.finished_at or job.now) - job.created_at,
        waiting_for=sentence,
        waiting_cause=cause,
        not_pruned=job.not_pruned,
        request_id=job.request_id,
    )


def _state(job: _JobRow) -> str:
    return "paused" if job.paused and job.state in UNFINISHED else str(job.state)


def _steps(transaction: Transaction, job_ids: Sequence[int]) -> dict[int, list[_StepRow]]:
    columns = (Step.job_id, Step.seq, Step.name, Step.spec_id, Step.input_step, Step.n_prior_done)
    prior = (Step.n_prior_failed, Step.n_prior_skipped, Step.n_prior_truncated, Step.n_retried)
    rows = transaction.execute(
        select(*columns, *prior, Step.escalates, Step.doubted, Step.n_rescued, *SPEC)
        .join(SpecRow, SpecRow.id == Step.spec_id)
        .where(Step.job_id.in_(job_ids))
        .order_by(Step.job_id, Step.seq)
    )
    steps: dict[int, list[_StepRow]] = {job_id: [] for job_id in job_ids}
    for row in rows:
        steps[row.job_id].append(row)
    return steps


def _works(rows: Sequence[_StepRow], sums: ShardSums) -> list[StepWork]:
    return [
        StepWork(
            step=row.seq,
            reads=row.input_step if row.escalates is None else row.escalates,
            settled=row.n_prior_done
            + row.n_prior_failed
            + row.n_prior_skipped
            + sums.total("n_contents", "done", step=row.seq),
            open_texts=sums.total("n_contents", *OPEN_SHARDS, step=row.seq),
            open_chars=sums.total("n_chars", *OPEN_SHARDS, step=row.seq),
            finished_texts=sums.total("n_contents", "done", step=row.seq),
            finished_chars=sums.total("n_chars", "done", step=row.seq),
            finished_s=sums.held_s(row.seq),
        )
        for row in rows
    ]


def _count_steps(rows: Sequence[_StepRow], sums: ShardSums) -> tuple[StepStatus, ...]:
    steps: list[StepStatus] = []
    for row in rows:
        read = None if row.input_step is None else steps[row.input_step]
        status = StepStatus(
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
            steps.append(status)
        else:
            rescued = row.n_rescued if Doubt.stored(row.doubted).failed else None
            steps[row.escalates] = _with_escalation(steps[row.escalates], status, rescued)
    return _with_blocked(steps)


def _with_escalation(step: StepStatus, escalated: StepStatus, rescued: int | None = None) -> StepStatus:
    """Return a step with its escalation. Texts that the escalation still has to compute count as pending.

    Of the texts that were escalated anew, only those beyond the number of new texts had a result before. `rescued`
    of the texts on which the step failed were done by the escalation; None if it does not compute these.
    """
    waiting, new = escalated.pending, escalated.texts - escalated.prior
    anew = max(0, new - (step.texts - step.prior))
    failures = Failures(step.failed) if rescued is None else Failures.of(step.failed, rescued, waiting)
    return replace(
        step,
        done=step.done + failures.rescued - (waiting - failures.waiting),
        failed=failures.final,
        pending=step.pending + waiting,
        prior=step.prior - anew,
        escalated=replace(escalated, blocked=0),
    )


def _with_blocked(steps: Sequence[StepStatus]) -> tuple[StepStatus, ...]:
    """Return the steps with the numbers of their blocked texts; each reads the documents or an earlier step."""
    by_name: dict[str, StepStatus] = {}
    for step in steps:
        read = None if step.input is None else by_name[step.input]
        blocked = 0 if read is None else read.failed + read.skipped + read.blocked
        by_name[step.name] = replace(step, blocked=blocked)
    return tuple(by_name.values())


def _wait(
    job: _JobRow, sums: ShardSums, rows: Sequence[_StepRow], workers: Workers, limit: Budget | None
) -> tuple[Cause, str] | None:
    """Return why a job makes no progress: the reason of its first open step, if no other step makes any."""
    of_step = {row.seq: row for row in rows}
    waits = [
        waiting_for(_take_snapshot(job, of_step[seq], sums, workers, limit)) for seq in sums.steps_to_do() or [0]
    ]
    return None if None in waits else waits[0]


def _take_snapshot(
    job: _JobRow, step: _StepRow, sums: ShardSums, workers: Workers, limit: Budget | None
) -> JobSnapshot:
    serving = [worker for worker in workers.live if step.kind in worker.lanes]
    held = [shards for shards in workers.held if (shards.job_id, shards.step) == (job.id, step.seq)]
    heard = {worker.id: worker.trouble for worker in workers.live if worker.seen_s <= FRESH_S}
    silent = [shards for shards in held if shards.owner not in heard]
    of_holders = [heard[shards.owner] for shards in held if heard.get(shards.owner) is not None]
    troubles = [*of_holders, *(worker.trouble for worker in serving if worker.trouble is not None)]
    next_try_at = sums.next_tries.get(step.seq)
    return JobSnapshot(
        state=_state(job),
        lane=step.kind,
        pending=sums.total("n_contents", *OPEN_SHARDS, step=step.seq),
        running=sum(shards.shards for shards in held if shards.owner in heard and heard[shards.owner] is None),
        silent=sum(shards.shards for shards in silent),
        ingest_age_s=job.ingest_age_s if job.ingest_state == "reading" else None,
        workers=len(workers.live),
        workers_of_lane=len(serving),
        refusals=workers.reasons(step.spec_id, [worker.id for worker in serving]),
        next_try_s=None if next_try_at is None else next_try_at - job.now,
        lapse_s=min((shards.lease_until for shards in silent), default=job.now) - job.now,
        trouble=troubles[0] if of_holders or (troubles and len(troubles) == len(serving)) else None,
        limit=None if limit is None else budgets.describe_reached(limit, job.id, job.budget),
    )


def _with_losses(transaction: Transaction, status: JobStatus, job: Job) -> JobStatus:
    """Return a status with the counts of removed rows, and the rules of retention that removed them."""
    steps = read_steps(transaction, job.id)
    lost = removed = 0
    if may_be_lost(transaction, job, steps):
        lost, removed = count_lost(transaction, job, steps), count_removed(transaction, job)
    elif job.state in {"cancelled", "stopped"}:  # documents without a result may never have had one
        removed = count_removed(transaction, job)
    by_rule = {
        "step_texts": job.forgotten_at is not None,
        "shards": job.folded_at is not None,
        "rejections": _lacks_rejections(transaction, job),
        RESULTS: lost > 0 and _dropped_by_rule(transaction, steps),
    }
    return replace(status, lost=lost, removed=removed, swept=tuple(rule for rule, did in by_rule.items() if did))


def _lacks_rejections(transaction: Transaction, job: Job) -> bool:
    counted = transaction.scalar(select(Ingest.n_rejected).where(Ingest.id == job.ingest_id))
    if not counted:
        return False
    rejected = and_(RejectionRow.ingest_id == job.ingest_id, ~RejectionRow.superseded)
    return transaction.scalar(select(RejectionRow.place).where(rejected).limit(1)) is None


def _dropped_by_rule(transaction: Transaction, steps: Sequence[OpenStep]) -> bool:
    ids = {spec_id for step in steps for spec_id in step.spec_ids}
    by_rule = select(SpecRow.id).where(SpecRow.id.in_(ids), SpecRow.dropped_by == RESULTS).limit(1)
    return transaction.scalar(by_rule) is not None
