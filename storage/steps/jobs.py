"""Open, adopt, pause, resume, end, cancel and retry jobs."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select, true, update

from docmill.storage.core import lookups
from docmill.storage.core.database import Database
from docmill.storage.core.schema import (
    AnyRow,
    Content,
    Corpus,
    Document,
    Ingest,
    Job,
    JobKey,
    OutcomeRow,
    Shard,
    ShardCount,
    Step,
    StepText,
    db_now,
)
from docmill.storage.core.specs import Status
from docmill.storage.core.transaction import Transaction, Ts
from docmill.storage.errors import DatabaseBusy, JobStopped, KeyReused, NotFound, StorageError
from docmill.storage.steps import budgets, choosing, fitted_risks, steps
from docmill.storage.steps.budgets import AT_LIMIT, Account
from docmill.storage.steps.conditions import Doubt
from docmill.storage.steps.lineage import visible
from docmill.storage.steps.sharding import OPEN_SHARDS, plan, unpack
from docmill.storage.steps.steps import Failures, OpenStep, StepRequest

UNFINISHED = ("ingesting", "running")
RUNS = and_(Job.state.in_(UNFINISHED), ~Job.paused)  # its shards may be committed
MAY_BEGIN = and_(RUNS, ~AT_LIMIT)  # its shards may be dispatched and claimed
PAUSED = and_(Job.state.in_(UNFINISHED), or_(Job.paused, AT_LIMIT))
# The columns of a shard that is taken from its holder, or from the queue.
FREE = {
    "state": "planned",
    "owner": None,
    "lease_until": None,
    "dispatched_at": None,
    "fence": Shard.fence + 1,
}
_SHOWN_CHARS = 60  # of a value in a message
_NOT_GIVEN = "not given"
_MAX_COST = "--max-cost"
_FIELDS = ("text_field", "id_field")  # options of an ingest that decide which documents a source has


@dataclass(frozen=True)
class IdempotencyKey:
    """A key, and the arguments that were given with it: JSON values by the names that a message shows."""

    key: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class JobRequest:
    """A request for a job: apply `steps` to `source`, read with `options` into the corpus `corpus`."""

    corpus: str
    source: str
    steps: tuple[StepRequest, ...]
    options: dict[str, Any] = field(default_factory=dict)
    priority: int = 0
    max_failures: float | None = None
    max_flagged: float | None = None
    account: Account = field(default_factory=Account)
    key: IdempotencyKey | None = None
    request_id: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True)
class OpenJob:
    """A job that takes documents. An `adopted` job is an earlier, unfinished one that is continued.

    `last_before` is the last document that its corpus had when it was opened, at `opened_at`. `rereads` says that its
    source was read to the end before: the job stays as it is until the reading brings something. `started_at` is the
    time when its reading started; another process that continues it sets a new time.
    """

    id: int
    ingest_id: int
    corpus_id: int
    steps: tuple[OpenStep, ...]
    adopted: bool
    opened_at: float
    started_at: float
    last_before: int = 0
    rereads: bool = False
    request_id: str | None = None


def open_job(database: Database, request: JobRequest) -> OpenJob:
    """Return the unfinished job of the same corpus, source, options and steps, or a new one, ready for its ingest.

    With a key it is the job of this key, even if that has ended. A new job keeps the latest fitted risks.
    Raises StorageError without a risk, and for a source that was read with other fields before.
    """

    def work(transaction: Transaction) -> OpenJob:
        keyed = None if request.key is None else job_of_key(transaction, request.key)
        corpus = keyed.corpus_id if keyed else lookups.corpus_id(transaction, request.corpus)
        lock_corpus(transaction, corpus)
        last = transaction.scalar(select(func.max(Document.id)).where(Document.corpus_id == corpus)) or 0
        now = transaction.read_clock()
        adopted = (keyed.id, keyed.ingest_id) if keyed else None
        if request.key is None:
            adopted = _find_unfinished(transaction, request, corpus)
        if adopted is not None:
            if request.account.max_cost is not None:
                budgets.limit_job(transaction, adopted[0], request.account)
            return _adopt(transaction, *adopted, corpus, last, now)
        _require_same_fields(transaction, request, corpus)
        ingest_id = lookups.insert_row(
            transaction,
            Ingest,
            corpus_id=corpus,
            source=request.source,
            options=request.options,
            state="reading",
            started_at=now,
            seen_at=now,
        )
        job_id = lookups.insert_row(
            transaction,
            Job,
            corpus_id=corpus,
            ingest_id=ingest_id,
            state="ingesting",
            priority=request.priority,
            sharer=request.account.sharer,
            weight=request.account.weight,
            max_failures=request.max_failures,
            max_flagged=request.max_flagged,
            request_id=request.request_id,
            traceparent=request.traceparent,
            created_at=db_now(),
        )
        made = steps.add(transaction, job_id, fitted_risks.resolve_risks(transaction, request.steps))
        if request.account.max_cost is not None:
            budgets.limit_job(transaction, job_id, request.account)
        elif request.account.prices:
            budgets.set_prices(transaction, job_id, request.account.prices)
        if request.key is not None:
            _note_key(transaction, request.key, job_id)
        return OpenJob(
            *(job_id, ingest_id, corpus, made),
            adopted=False,
            opened_at=now,
            started_at=now,
            last_before=last,
            request_id=request.request_id,
        )

    return database.write(work)


def _adopt(transaction: Transaction, job_id: int, ingest_id: int, corpus: int, last: int, now: float) -> OpenJob:
    """Continue a job whose reading was probably cut off. Its source is read and counted from the start.

    A job whose source had been read to the end is left as it is: if this command is killed, too, nobody would finish
    a job that it had reopened (see `storage.ingest.ingest`).
    """
    made = steps.read_steps(transaction, job_id)
    row = transaction.execute(select(Job.state, Job.request_id).where(Job.id == job_id)).one()
    before = transaction.execute(select(Ingest.started_at).where(Ingest.id == ingest_id)).scalar_one()
    job = OpenJob(
        *(job_id, ingest_id, corpus, made),
        adopted=True,
        opened_at=now,
        started_at=max(now, before + 0.001),  # another time, even by SQLite's clock of milliseconds
        last_before=last,
        request_id=row.request_id,
    )
    if row.state != "ingesting":
        return replace(job, rereads=True)
    anew = dict.fromkeys(("n_records", "n_unchanged", "n_repeated", "n_rejected", "n_vanished"), 0)
    ingest = update(Ingest).where(Ingest.id == ingest_id)
    transaction.execute(
        ingest.values(state="reading", started_at=job.started_at, seen_at=now, not_pruned=None, **anew)
    )
    return job


def _find_unfinished(transaction: Transaction, request: JobRequest, corpus: int) -> tuple[int, int] | None:
    query = (
        select(Job.id, Job.ingest_id, Ingest.options)
        .join(Ingest, Ingest.id == Job.ingest_id)
        .where(Job.corpus_id == corpus, Job.state.in_(UNFINISHED), Ingest.source == request.source)
        .order_by(Job.id)
    )
    for row in transaction.execute(query):
        if row.options == request.options and steps.read_requests(transaction, row.id) == request.steps:
            return row.id, row.ingest_id
    return None


def _require_same_fields(transaction: Transaction, request: JobRequest, corpus: int) -> None:
    """Raise StorageError if a corpus that is named after its source was read with other fields before.

    Another text field would replace the text of every document, and another id field would double the documents.
    """
    if not request.corpus.startswith(request.source):
        return
    of_source = and_(Ingest.corpus_id == corpus, Ingest.source == request.source, Ingest.n_records > 0)
    before = transaction.scalar(select(Ingest.options).where(of_source).order_by(Ingest.id.desc()).limit(1)) or {}
    changed = [name for name in _FIELDS if name in before and before[name] != request.options.get(name)]
    if changed:
        then, now = (
            " ".join(f"--{name.replace('_', '-')} {shlex.quote(str(options.get(name)))}" for name in changed)
            for options in (before, request.options)
        )
        raise StorageError(
            f"the corpus {request.corpus} was read with {then}, and {now} would replace or double its documents; "
            f"give --corpus NAME to keep both, or {then} as before"
        )


def lock_corpus(transaction: Transaction, corpus_id: int) -> None:
    """Lock a corpus, so that its writers take turns."""
    transaction.lock_row(Corpus, corpus_id)


def finish(database: Database, job_id: int | None = None) -> list[int]:
    """End the running jobs (or one) that have no open shard. Stop jobs with too many failures or doubts.

    Return the ids of the jobs that ended. Any process may call it, and a second call changes nothing.
    """

    def work(transaction: Transaction) -> list[int]:
        wanted = true() if job_id is None else Job.id == job_id
        # A second statement looks at the locked jobs, so that it sees shards that a retry is adding.
        ids = select(Job.id).where(wanted, Job.state == "running").order_by(Job.id)
        running = list(transaction.scalars(transaction.for_update(ids)))
        _stop_bounded(transaction, wanted)
        open_shard = (
            select(Shard.id).where(Shard.job_id == Job.id, Shard.state.in_(OPEN_SHARDS)).exists().correlate(Job)
        )
        ended = transaction.execute(
            update(Job)
            .where(Job.id.in_(running), Job.state == "running", ~open_shard)
            .values(state="done", paused=False, finished_at=db_now())
            .returning(Job.id)
        )
        return [row.id for row in ended]

    return database.write(work) if _maybe_over(database, job_id) else []


def _maybe_over(database: Database, job_id: int | None) -> bool:
    """Return True if a job may be over. For one job, read its kept counts only, since many people may watch it."""
    with database.read() as transaction:
        if job_id is None:
            return transaction.scalar(_ANY_UNFINISHED) is not None
        job = transaction.execute(select(Job).where(Job.state.in_(UNFINISHED), Job.id == job_id)).one_or_none()
        if job is None:
            return False
        is_open = and_(ShardCount.job_id == job_id, ShardCount.state.in_(OPEN_SHARDS))
        n_open = transaction.scalar(select(func.sum(ShardCount.n)).where(is_open)) or 0
        return (job.state == "running" and not n_open) or _too_many(transaction, job) is not None


_ANY_UNFINISHED = select(Job.id).where(Job.state.in_(UNFINISHED)).limit(1)


def _stop_bounded(transaction: Transaction, wanted: ColumnElement[bool]) -> None:
    """Stop the jobs that have more failed or doubtful texts than they may have."""
    most = (Job.max_failures, Job.max_flagged)
    bounded = select(Job.id, *most).where(wanted, Job.state.in_(UNFINISHED))
    for job in transaction.execute(bounded.where(or_(*(bound.is_not(None) for bound in most)))).all():
        if (reason := _too_many(transaction, job)) is not None:
            stop(transaction, job.id, "stopped", reason)


def _too_many(transaction: Transaction, job: AnyRow) -> str | None:
    """Return the sentence that says that more of a job's texts failed or are doubtful than may be; else None."""
    if job.max_failures is None and job.max_flagged is None:
        return None
    failed, doubtful = _count_failed_and_doubtful(transaction, job.id)
    if too_many("failed", *failed, job.max_failures) is not None:
        failed, _ = _count_failed_and_doubtful(transaction, job.id, exactly=True)
    return too_many("failed", *failed, job.max_failures) or too_many("are doubtful", *doubtful, job.max_flagged)


def _count_failed_and_doubtful(
    transaction: Transaction, job_id: int, *, exactly: bool = False
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the numbers of failed and of doubtful texts of a job, each with the total that it is a part of.

    By default, failed texts may include some that failed only in an earlier job, and some that are tried again count
    twice. `exactly` reads the outcomes and the shards of the steps with failures.

    An escalation has its step's texts, and where it fails, the step's results stay. So its texts count only among
    those that may be doubtful, and only if an earlier job computed the step's own results. A failure that it computes
    again counts once it has failed there, too.
    """
    kept = ShardCount
    to_do = case((kept.state.in_(OPEN_SHARDS), kept.n_contents), else_=0)
    sums = (func.sum(column) for column in (kept.n_failed, kept.n_doubtful, kept.n_contents, to_do))
    shards = transaction.execute(select(kept.step, *sums).where(kept.job_id == job_id).group_by(kept.step)).all()
    of_step = {seq: [*map(int, sums)] for seq, *sums in shards}  # PostgreSQL's sums are decimals
    n_doubtful = total = again = 0
    n_failed: dict[int, int] = {}
    step_of: dict[int, Any] = {}
    specs: dict[int, list[int]] = {}
    for row in transaction.execute(select(Step).where(Step.job_id == job_id).order_by(Step.seq)).all():
        failed, doubtful, texts, pending = of_step.get(row.seq, (0, 0, 0, 0))
        n_doubtful += doubtful
        retried = max(0, row.n_retried - row.n_prior_failed)
        texts -= retried  # which are in two shards
        if row.escalates is None:
            total += texts
            n_failed[row.seq], step_of[row.seq], specs[row.seq] = max(0, failed - retried), row, [row.spec_id]
        else:
            escalated, new = step_of[row.escalates], n_failed[row.escalates]
            again += min(texts, escalated.n_prior_done)
            if Doubt.stored(row.doubted).failed:
                specs[row.escalates].append(row.spec_id)
                # Rescued texts include those whose step failed in an earlier job and whose escalation did not.
                known = max(0, escalated.n_prior_failed - row.n_prior_failed)
                n_failed[row.escalates] = min(new, Failures.of(new + known, row.n_rescued, pending).final)
    for seq in step_of if exactly else ():
        step = step_of[seq]
        if n_failed[seq] and step.n_prior_failed:
            n, n_twice = _count_exactly(transaction, job_id, seq, specs[seq])
            n_failed[seq] = min(n_failed[seq], n)
            total -= max(0, n_twice - max(0, step.n_retried - step.n_prior_failed))
    return (sum(n_failed.values()), total), (n_doubtful, total + again)


def _count_exactly(transaction: Transaction, job_id: int, seq: int, specs: Sequence[int]) -> tuple[int, int]:
    """Count the texts in a step's shards that failed under all these specs and are not tried again.

    Return with it how often a text is in one more shard.
    """
    columns = (Shard.contents, Shard.n_contents, Shard.n_failed, Shard.redo, Shard.state)
    of_step = select(*columns).where(Shard.job_id == job_id, Shard.step == seq)
    rows = transaction.execute(of_step.where(or_(Shard.n_failed > 0, Shard.redo)))
    shards = [(row, {*unpack(row.contents)}) for row in rows]
    failed = set[int]().union(*(contents for row, contents in shards if row.n_failed))
    failed -= set[int]().union(*(contents for row, contents in shards if row.redo and row.state in OPEN_SHARDS))
    distinct = set[int]().union(*(contents for _, contents in shards))
    n_twice = sum(row.n_contents for row, contents in shards if contents) - len(distinct)  # folded ones have none
    for spec_id in specs:
        known = lookups.known_outcomes(transaction, spec_id, sorted(failed))
        failed = {content_id for content_id, outcome in known.items() if outcome.status == Status.FAILED}
    return len(failed), n_twice


def too_many(what: str, n: int, total: int, most: float | None) -> str | None:
    """Return a sentence if `n` of a job's `total` texts are more than `most` percent; None if they are not."""
    if most is None or n <= 0 or n <= total * most / 100:
        return None
    return f"more than {most:g} % of its texts {what} ({n} of {total})"


def stop(transaction: Transaction, job_id: int, state: str, reason: str | None) -> bool:
    """Put a job into a final state, and take its shards away. Return False if it had ended."""
    stopped = transaction.execute(
        update(Job)
        .where(Job.id == job_id, Job.state.in_(UNFINISHED))
        .values(state=state, paused=False, reason=reason, finished_at=db_now())
    )
    if stopped.rowcount == 0:
        return False
    _take_away(transaction, job_id)
    return True


def _take_away(transaction: Transaction, job_id: int) -> None:
    """Take a job's shards from workers (under a new fence) and from the queue. No attempt is spent.

    The cost depends on the running and queued shards, not on all that the job has.
    """
    held = update(Shard).where(Shard.job_id == job_id)
    # The queued shards first: the statement waits for a claim that is under way, whose shard is running then.
    transaction.execute(held.where(Shard.state == "queued").values(**FREE))
    transaction.execute(held.where(Shard.state == "running").values(attempt=Shard.attempt - 1, **FREE))


def pause(database: Database, job_id: int) -> bool:
    """Pause a job until it is resumed. Finished results stay; work in progress is dropped.

    Return False if the job had ended. A second call changes nothing. Raises NotFound.
    """
    require(database, job_id)

    def work(transaction: Transaction) -> bool:
        paused = transaction.execute(
            update(Job).where(Job.id == job_id, Job.state.in_(UNFINISHED)).values(paused=True)
        )
        if paused.rowcount == 0:
            return False
        _take_away(transaction, job_id)
        return True

    return database.write(work)


def resume(database: Database, job_id: int, limit: Account | None = None) -> bool:
    """Let a paused job continue, with a new cost limit if `limit` is given. Return False if it had ended.

    A second call changes nothing. Raises NotFound.
    """
    if limit is not None:
        require(database, job_id)
        database.write(lambda transaction: budgets.limit_job(transaction, job_id, limit))
    return _set(database, job_id, paused=False)


def prioritize(database: Database, job_id: int, priority: int) -> bool:
    """Give a job another priority; higher goes first. Return False if the job had ended. Raises NotFound."""
    return _set(database, job_id, priority=priority)


def _set(database: Database, job_id: int, **values: Any) -> bool:
    require(database, job_id)
    unfinished = update(Job).where(Job.id == job_id, Job.state.in_(UNFINISHED))
    return database.execute(unfinished.values(**values)) > 0


def cancel(database: Database, job_id: int) -> bool:
    """Cancel a job. Return False if it had ended. Raises NotFound."""
    require(database, job_id)
    return database.write(lambda transaction: stop(transaction, job_id, "cancelled", None))


def halt(database: Database, job_id: int, reason: str) -> bool:
    """Stop a job for a reason, which its status shows. Return False if it had ended."""
    return database.write(lambda transaction: stop(transaction, job_id, "stopped", reason))


def require(database: Database, job_id: int) -> Job:
    """Return the job's row. Raises NotFound."""
    with database.read() as transaction:
        row = transaction.execute(select(Job).where(Job.id == job_id)).one_or_none()
        if row is None:
            raise missing(transaction, job_id)
    return Job.of(row)


def missing(transaction: Transaction, job_id: int) -> NotFound:
    """Return the error for a job that does not exist. It says if the job was removed."""
    last = transaction.scalar(select(func.max(Job.id))) or 0
    if 0 < job_id < last:
        return NotFound(
            f"there is no job {job_id} any more: it was removed with its corpus, or with its run when that was old "
            "(retention, rule runs); `docmill jobs` lists the others"
        )
    return NotFound(f"there is no job {job_id}; `docmill jobs` lists them")


def latest(database: Database) -> int:
    """Return the number of the newest job. Raises NotFound."""
    job_id: int | None = database.value(select(func.max(Job.id)))
    if job_id is None:
        raise NotFound("there are no jobs yet; `docmill run summarize SOURCE` makes one")
    return job_id


def retry(database: Database, job_id: int, only: str | None = None) -> int:
    """Plan the job's failed texts again: all, or those of `only` one class of reasons. Return their number.

    Texts that another job has computed since are planned, too: they are not computed again, and go on to the steps
    that read them. Only a new job takes them to steps whose prompts use metadata, or on from steps with an
    escalation. Failures stay on record until a better outcome replaces them. A stopped job continues: failures that
    are tried again, and doubtful results so far, no longer count against its bounds. Raises NotFound, and JobStopped
    for a job that was cancelled or whose texts were forgotten.
    """
    return database.write(lambda transaction: _retry(transaction, job_id, only))


def _retry(transaction: Transaction, job_id: int, only: str | None) -> int:
    transaction.keep_contents()
    locked = transaction.for_update(select(Job).where(Job.id == job_id))
    row = transaction.execute(locked).one_or_none()
    if row is None:
        raise missing(transaction, job_id)
    job = Job.of(row)
    if job.state == "cancelled":
        raise JobStopped(f"job {job_id} was cancelled; enqueue its source again, which computes only what is missing")
    accepted = _accept_doubtful(transaction, job)
    has_failed = _has_failed(transaction, job_id)
    if job.forgotten_at is not None and (accepted or has_failed):
        raise JobStopped(
            f"job {job_id} ended too long ago to be tried again; enqueue its source again, which computes only what "
            "is missing"
        )
    held = _open_contents(transaction, job_id)
    every = steps.read_steps(transaction, job_id)
    total = 0
    for step in steps.with_escalations(every):
        wanted = and_(OutcomeRow.status == "failed", OutcomeRow.reason_class == only if only else true())
        if has_failed and not only:
            wanted = or_(wanted, *(_is_unread(job_id, reader) for reader in every if reader.reads_as_it_is(step)))
        query = (
            select(Content.id, Content.n_chars)
            .join(OutcomeRow, and_(OutcomeRow.spec_id == step.spec_id, OutcomeRow.content_id == Content.id))
            .where(wanted)
            .distinct()
            .order_by(Content.id)
        )
        if step.escalation is not None and step.escalation.doubt.failed:
            query = query.where(~_done_by(step.escalation.spec_id))
        contents = transaction.execute(_met_by(query, job, step))
        failed = [(content.id, content.n_chars) for content in contents if (step.seq, content.id) not in held]
        if failed:
            plan(transaction, job_id, step, failed, redo=True)
            this = and_(Step.job_id == job_id, Step.seq == step.seq)
            transaction.execute(update(Step).where(this).values(n_retried=Step.n_retried + len(failed)))
            total += len(failed)
    if total or accepted:
        is_read = transaction.scalar(select(Ingest.state).where(Ingest.id == job.ingest_id)) == "read"
        again = {"state": "running" if is_read else "ingesting", "reason": None, "finished_at": None}
        transaction.execute(update(Job).where(Job.id == job_id).values(**again))
    return total


def _accept_doubtful(transaction: Transaction, job: Job) -> bool:
    """Reset the count of doubtful results if it stopped the job. Return True if it did."""
    _, doubtful = _count_failed_and_doubtful(transaction, job.id)
    if job.state != "stopped" or too_many("are doubtful", *doubtful, job.max_flagged) is None:
        return False
    counted = and_(Shard.job_id == job.id, Shard.n_doubtful > 0)
    transaction.execute(update(Shard).where(counted).values(n_doubtful=0))
    return True


def _has_failed(transaction: Transaction, job_id: int) -> bool:
    of_shards = select(func.coalesce(func.sum(ShardCount.n_failed), 0)).where(ShardCount.job_id == job_id)
    of_steps = select(func.coalesce(func.sum(Step.n_prior_failed - Step.n_retried), 0)).where(Step.job_id == job_id)
    return int(transaction.scalar(of_shards) or 0) + int(transaction.scalar(of_steps) or 0) > 0


def _is_unread(job_id: int, reader: OpenStep) -> ColumnElement[bool]:
    """Return the condition that a step has not met an output that it reads."""
    met = select(StepText.content_id).where(
        StepText.job_id == job_id, StepText.step == reader.seq, StepText.content_id == OutcomeRow.output_id
    )
    selected = true() if reader.flagged is None else choosing.selects(reader.flagged, OutcomeRow.__table__)
    return and_(OutcomeRow.status == "done", selected, ~met.correlate(OutcomeRow).exists())


def _done_by(spec_id: int) -> ColumnElement[bool]:
    """Return the condition that a content has a done outcome under a spec."""
    second = OutcomeRow.__table__.alias()
    of_content = select(second.c.content_id).where(second.c.spec_id == spec_id, second.c.content_id == Content.id)
    return of_content.where(second.c.status == "done").correlate(Content).exists()


def _met_by(query: Select[*Ts], job: Job, step: OpenStep) -> Select[*Ts]:
    """Limit a query over contents to those that a step of the job has come across."""
    if step.meets_texts:
        return query.join(StepText, StepText.content_id == Content.id).where(
            StepText.job_id == job.id, StepText.step == step.seq
        )
    return query.join(Document, Document.content_id == Content.id).where(
        visible(job),
        # The job counts the outcomes of other contents once it comes across them.
        or_(Document.id <= job.swept_to, Document.ingest_id == job.ingest_id),
    )


def _open_contents(transaction: Transaction, job_id: int) -> set[tuple[int, int]]:
    """Return (step, content) of the job's open shards. These contents are planned already."""
    query = select(Shard.step, Shard.contents).where(Shard.job_id == job_id, Shard.state.in_(OPEN_SHARDS))
    return {(row.step, content_id) for row in transaction.execute(query) for content_id in unpack(row.contents)}


# Idempotency keys: the same key returns the same job, even if the job has ended.


def find_by_key(database: Database, key: IdempotencyKey) -> tuple[Job, Ingest] | None:
    """Return the job of a key, and its reading; None if the key has no job yet. Raises KeyReused."""
    with database.read() as transaction:
        job = job_of_key(transaction, key)
        if job is None:
            return None
        return job, Ingest.of(transaction.execute(select(Ingest).where(Ingest.id == job.ingest_id)).one())


def job_of_key(transaction: Transaction, key: IdempotencyKey) -> Job | None:
    """Return the job of a key; None if the key has no job yet.

    Raises KeyReused if the key came with other arguments before, or if its job was removed.
    """
    row = transaction.execute(select(JobKey).where(JobKey.key == key.key)).one_or_none()
    if row is None:
        return None
    job = transaction.execute(select(Job).where(Job.id == row.job_id)).one_or_none()
    if job is None:
        raise KeyReused(
            f"job {row.job_id} of the idempotency key {key.key} was removed; give another key to "
            "store the documents again"
        )
    before = row.arguments or {}
    if said := _different_arguments(before, key.arguments):
        advice = "Give the same arguments, or another key"
        if before.get(_MAX_COST) != key.arguments.get(_MAX_COST):
            advice = f"{advice}; `docmill resume {row.job_id} --max-cost N` changes the cost limit"
        raise KeyReused(
            f"the idempotency key {key.key} is that of job {row.job_id}, which has other arguments: "
            f"{'; '.join(said)}. {advice}"
        )
    return Job.of(job)


def _note_key(transaction: Transaction, key: IdempotencyKey, job_id: int) -> None:
    """Store the key of a new job. Raises DatabaseBusy if another transaction stored it since this one looked."""
    row = {"key": key.key, "job_id": job_id, "arguments": dict(key.arguments), "created_at": db_now()}
    added = transaction.insert(JobKey).values(**row).on_conflict_do_nothing().returning(JobKey.key)
    if transaction.execute(added).first() is None:
        raise DatabaseBusy(f"another command stores the idempotency key {key.key}")


def forget_arguments(transaction: Transaction, job_ids: Collection[int]) -> None:
    """Delete the arguments of jobs that are removed. The keys stay."""
    transaction.execute(update(JobKey).where(JobKey.job_id.in_(job_ids)).values(arguments=None))


def _different_arguments(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [f"{name} {_format_argument(before, name)} then, {_format_argument(now, name)} now" for name in names]


def _format_argument(arguments: Mapping[str, Any], name: str) -> str:
    if name not in arguments:
        return _NOT_GIVEN
    text = " ".join(str(arguments[name]).split())
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]} …"
