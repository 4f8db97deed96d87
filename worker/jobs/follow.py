"""Show the progress of reading a source, and of a job until it ends."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from docmill.storage.core.database import Database
from docmill.storage.errors import PASSING
from docmill.storage.ingest.ingest import Counts
from docmill.storage.leases.diagnosis import Cause
from docmill.storage.readers import Rejection, Source
from docmill.storage.readers.memory import NoSource
from docmill.storage.readers.registry import advise_extras
from docmill.storage.results.status import JobStatus, read_status
from docmill.storage.steps import jobs
from docmill.storage.steps.budgets import Account
from docmill.storage.steps.jobs import OpenJob
from docmill.worker.formatting import counted, documents, ingested, pace, where_time_goes
from docmill.worker.jobs import Bar, Listener
from docmill.worker.prices import limit_cost
from docmill.worker.settings import Settings
from docmill.worker.submit.enqueue import Enqueued, IngestProgress

POLL_S, MOST_POLL_S = 0.5, 2.0  # at first, and after two minutes
SHOWN_REJECTIONS = 5
SHOWN_KINDS = 10  # of files that were left out
PATIENCE_S = 60.0  # the longest wait of a watcher for an unreachable database
# After this time a watcher leaves a job that every worker refuses. Each worker tries it twice meanwhile.
BLOCKED_PATIENCE_S = 75.0
# Causes that a watcher with a worker of its own does not report: the worker is still starting, its refusal ends the
# command anyway, or it is too busy to send a heartbeat.
_OF_OWN_WORKER = frozenset({Cause.NO_WORKER, Cause.BLOCKED, Cause.LEASE, Cause.COST})


class IngestBar(IngestProgress):
    """A bar over the bytes of a source, if its size is known.

    It shows the first rejected records, and each that ends the reading of its file.
    """

    def __init__(
        self, bar: Bar, source: Source, on_planned: Callable[[int], None], on_opened: Callable[[int], None]
    ) -> None:
        self._bar = bar
        self._source = source
        self._on_planned = on_planned
        self._on_opened = on_opened
        self._n_rejected = self._n_shown = 0
        self.job_id: int | None = None

    def opened(self, job: OpenJob) -> None:
        self.job_id = job.id
        self._on_opened(job.id)

    def advanced(self, counts: Counts) -> None:
        n_read = counted(counts.records + counts.rejected, "record")
        self._bar.update(self._source.bytes_read, total=self._source.size_bytes(), count=n_read)
        if counts.planned and self.job_id is not None:
            self._on_planned(self.job_id)

    def noted(self, note: str) -> None:
        self._bar.update(self._source.bytes_read, total=self._source.size_bytes(), note=note)

    def rejected(self, rejected: Rejection) -> None:
        self._n_rejected += 1
        if self._n_rejected <= SHOWN_REJECTIONS or rejected.fatal:
            self._n_shown += 1
            self._bar.say(f"rejected {rejected.where}: {rejected.reason}")

    def ended(self) -> None:
        """Count the rejected records that were not shown."""
        if more := self._n_rejected - self._n_shown:
            listed = f"; `docmill failures {self.job_id}` lists all" if self.job_id else ""
            self._bar.say(f"rejected {counted(more, 'more record')}{listed}")


@contextmanager
def ingest_bar(
    listener: Listener,
    source: Source,
    on_planned: Callable[[int], None] = lambda _: None,
    on_opened: Callable[[int], None] = lambda _: None,
) -> Iterator[IngestBar]:
    """Show the progress of reading a source. `on_opened` gets the job's number, `on_planned` once it has texts."""
    with listener.bar("reading") as bar:
        progress = IngestBar(bar, source, on_planned, on_opened)
        yield progress
        progress.ended()


def describe_left_out(source: Source) -> str | None:
    """Return a sentence on the files that a reading left out, by kind, and on extras that read them; None if none."""
    by_kind: Counter[str] = Counter()
    for suffix, n in source.ignored.items():
        by_kind[suffix.lower()] += n
    if not by_kind:
        return None
    kinds = sorted(by_kind.items(), key=lambda kind: (-kind[1], kind[0]))
    shown = ", ".join(f"{n:,} {suffix}" for suffix, n in kinds[:SHOWN_KINDS])
    more = f" and {sum(n for _, n in kinds[SHOWN_KINDS:]):,} of other kinds" if len(kinds) > SHOWN_KINDS else ""
    n_files = by_kind.total()
    said = [f"{n_files:,} {'file was' if n_files == 1 else 'files were'} left out: {shown}{more}"]
    said += list(source.reasons.values())[:SHOWN_KINDS]
    if install := advise_extras(by_kind).removeprefix("; "):
        said.append(install)
    return ". ".join(said) + "."


def say_ingested(listener: Listener, source: Source, done: Enqueued) -> None:
    """Say how many records were read, and if an earlier job continues with them."""
    if isinstance(source, NoSource):
        listener.say(
            f"Job {done.id}: {documents(done.documents)}, {counted(done.counts.planned, 'text')} to compute."
        )
    else:
        listener.say(ingested(source.name, done.counts, adopted=done.adopted, takes_encoding=source.takes_encoding))
    if (others := describe_left_out(source)) is not None:
        listener.say(others)
    for remark in done.remarks:
        listener.say(remark)
    if done.not_pruned:
        listener.say(f"{done.not_pruned}.")
    if done.adopted:
        listener.say(f"Job {done.id} was unfinished. It continues.")


def follow(
    database: Database,
    job_id: int,
    listener: Listener | None = None,
    *,
    in_flight: Callable[[], float] | None = None,
    watch: Callable[[JobStatus], None] = lambda _: None,
    wait: Callable[[float], None] = time.sleep,
) -> JobStatus:
    """Show a job's progress until it ends, or until every worker has refused it for more than a minute.

    `watch` gets every status, and may raise to stop watching. `wait` waits between two looks, for the seconds given
    or until there is news. If this process has a worker, `in_flight` returns the number of texts that it has computed
    and not yet committed, and only `watch` ends the watching of a job that every worker refuses.
    """
    own_worker = in_flight is not None
    status = read_status(database, job_id)
    if status.ended:
        return status
    began = time.monotonic()
    shown_cause: Cause | None = None
    away_since: float | None = None
    blocked_since: float | None = None
    title = status.spec.kind if len(status.steps) == 1 else counted(len(status.steps), "step")
    with (listener or Listener()).bar(title, total=status.texts) as progress:
        while True:
            try:
                jobs.finish(database, job_id)
                status = read_status(database, job_id)
                away_since = None
            except PASSING as error:
                if away_since is None:
                    away_since = time.monotonic()
                    progress.say(f"Waiting for the database, {PATIENCE_S:.0f} s at most: {error}.")
                if time.monotonic() - away_since > PATIENCE_S:
                    raise
            computed = 0.0 if status.ended else max(status.computed, in_flight() if in_flight else 0.0)
            settled = status.texts - status.pending + computed
            note = pace(status) or ("loading the model" if own_worker and settled == status.prior else "")
            notes = "\n".join(filter(None, [note, where_time_goes(status)]))
            progress.update(min(settled, status.texts), total=status.texts, note=notes)
            cause = status.waiting_cause
            is_of_own = own_worker and cause in _OF_OWN_WORKER
            if cause is not shown_cause and not is_of_own:  # by the cause, since its sentence may count down
                shown_cause = cause
                if status.waiting_for:
                    progress.say(status.waiting_for)
            if status.ended:
                return status
            blocked_since = (blocked_since or time.monotonic()) if status.blocked and not own_worker else None
            if blocked_since is not None and time.monotonic() - blocked_since >= BLOCKED_PATIENCE_S:
                return status
            watch(status)
            # Many people may watch a long job of a fleet.
            wait(POLL_S if own_worker else min(MOST_POLL_S, max(POLL_S, (time.monotonic() - began) / 60)))


def change_job(
    database: Database, job_id: int, change: Callable[[Database, int], bool], became: str
) -> tuple[bool, str]:
    """Apply a change to a job. Return False if the job had ended already, and a sentence that says so."""
    changed = change(database, job_id)
    return changed, f"Job {job_id} is {became}." if changed else f"Job {job_id} had ended already."


def resume_job(
    settings: Settings, database: Database, job_id: int, max_cost: float | None = None
) -> tuple[bool, str]:
    """Resume a job, with a new cost limit if one is given. The sentence says if the job is at its limit.

    Raises WorkerError for a limit without prices.
    """
    limit = None
    if max_cost is not None:
        specs = [step.spec for step in read_status(database, job_id).computing]
        has_budget = jobs.require(database, job_id).budget is not None
        limit = Account(max_cost=max_cost) if has_budget else limit_cost(settings, max_cost, specs)
    changed, said = change_job(database, job_id, partial(jobs.resume, limit=limit), "resumed")
    status = read_status(database, job_id)
    if status.waiting_cause is Cause.COST:
        return changed, f"Job {job_id} stays paused: {status.waiting_for}."
    return changed, said


def retry_failures(database: Database, job_id: int, only: str | None) -> tuple[int, bool, str]:
    """Try the failed texts of a job again, or only those of one class. Raises JobStopped.

    Return their number, True if a stopped job goes on, and a sentence that says so.
    """
    was_stopped = jobs.require(database, job_id).state == "stopped"
    texts = jobs.retry(database, job_id, only)
    goes_on = was_stopped and jobs.require(database, job_id).state != "stopped"
    if texts:
        return texts, goes_on, f"{counted(texts, 'text')} of job {job_id} will be tried again."
    if goes_on:
        said = f"Job {job_id} goes on. Its doubtful results so far no longer count against --max-flagged."
        return texts, goes_on, said
    return texts, goes_on, f"Job {job_id} has nothing to try again."
