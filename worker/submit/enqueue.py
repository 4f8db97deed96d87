"""Store a prepared request as a job, in the same way for the command line, pipelines and orders."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from docmill.storage import fault_points
from docmill.storage.core.database import Database
from docmill.storage.ingest import ingest
from docmill.storage.ingest.changes import KeyKinds, SeenDocuments
from docmill.storage.ingest.chunks import Chunk, read_chunks
from docmill.storage.ingest.ingest import Counts
from docmill.storage.ingest.pruning import Unread, note_missing, note_other_sources, prune
from docmill.storage.readers import Rejection, memory
from docmill.storage.readers.errors import ProgramFailed
from docmill.storage.readers.files import StreamSource
from docmill.storage.steps import jobs
from docmill.storage.steps.conditions import find_filter
from docmill.storage.steps.jobs import IdempotencyKey, JobRequest, OpenJob
from docmill.tasks import tracing
from docmill.tasks.tracing import TraceSpan
from docmill.worker import logs
from docmill.worker.concurrency import HeldLease, prefetch
from docmill.worker.errors import BrokerUnreachable, WorkerError
from docmill.worker.queue.dispatcher import top_up
from docmill.worker.submit.request import Prepared

if TYPE_CHECKING:
    from docmill.worker.queue.broker import Broker


log = logging.getLogger("docmill.enqueue")

NO_QUEUE = "DOCMILL_REDIS_URL is not set. The job is stored; `docmill worker` picks it up."
TOP_UP_EVERY_S = 2.0


class IngestProgress:
    """A listener to an ingest; this one does nothing. Counts are totals so far."""

    def opened(self, job: OpenJob) -> None:
        """Hear that the job has its number."""

    def advanced(self, counts: Counts) -> None:
        """Hear that another chunk is stored."""

    def rejected(self, rejected: Rejection) -> None:
        """Hear of a record that could not be read."""

    def noted(self, note: str) -> None:
        """Hear of the progress of work behind the reading."""


@dataclass(frozen=True)
class UnderLease(IngestProgress):
    """Notes the job of an ingest as soon as it has a number, and stops the ingest once the lease is lost.

    ``note`` stores the number and returns False if the lease may be lost.
    """

    held: HeldLease
    note: Callable[[OpenJob], bool]

    def opened(self, job: OpenJob) -> None:
        if not self.note(job):
            self.held.confirm()

    def advanced(self, counts: Counts) -> None:
        self.held.check()

    def noted(self, note: str) -> None:
        self.held.check()


@dataclass(frozen=True)
class Enqueued:
    """A job as it stands once its source was read. `deferred` says why nothing was sent to the queue yet.

    `not_pruned` says why documents that are missing from the source were not marked as vanished, or that documents of
    other sources stay. `repeated` says that the idempotency key had this job, and that nothing was read. `state` is
    the job's. `remarks` are sentences about documents that steps leave out.
    """

    id: int
    adopted: bool
    documents: int
    counts: Counts
    deferred: str | None
    not_pruned: str | None = None
    repeated: bool = False
    state: str = "running"
    remarks: tuple[str, ...] = ()


def find_repeated(database: Database, key: IdempotencyKey | None) -> Enqueued | None:
    """Return the job of a key if it needs no more reading, even if it has ended; None if there is no such job.

    Raises StorageError for a key that came with other arguments, or whose job was removed.
    """
    keyed = None if key is None else jobs.find_by_key(database, key)
    if keyed is None or keyed[0].state == "ingesting":
        return None
    job, reading = keyed
    names = {field.name for field in fields(Counts) if hasattr(reading, f"n_{field.name}")}
    of_reading: dict[str, Any] = {name: getattr(reading, f"n_{name}") for name in names}
    return Enqueued(job.id, False, job.n_documents, Counts(**of_reading), None, repeated=True, state=job.state)


def enqueue(
    database: Database,
    broker: Broker | None,
    prepared: Prepared,
    progress: IngestProgress | None = None,
    *,
    offer_others: bool = True,
) -> Enqueued:
    """Store the source's documents as a job and offer its first shards to the queue, and other jobs' in their turn.

    The job is durable when this returns, even if Redis is down. After a crash, the same call continues the job.
    Raises WorkerError under `strict`, JobStopped when the job was cancelled meanwhile, StorageError for a key that
    came with other arguments, and for a source that was read by other fields before.
    """
    with tracing.span("enqueue", {"docmill.corpus": prepared.corpus}) as span:
        job = jobs.open_job(database, _job_request(prepared, span))
        span.set({"docmill.job": job.id, "docmill.request_id": job.request_id or ""})
        with logs.working_on(job=job.id, request_id=job.request_id):
            return _read_in(database, broker, prepared, progress or IngestProgress(), job, offer_others=offer_others)


def _job_request(prepared: Prepared, span: TraceSpan) -> JobRequest:
    return JobRequest(
        corpus=prepared.corpus,
        source=prepared.source.name,
        steps=prepared.steps,
        options=prepared.reading.remembered,
        priority=prepared.job.priority,
        max_failures=prepared.job.max_failures,
        max_flagged=prepared.job.max_flagged,
        account=prepared.account,
        key=prepared.key,
        request_id=prepared.request_id or span.trace_id or uuid.uuid4().hex,
        traceparent=span.traceparent,
    )


def _read_in(
    database: Database,
    broker: Broker | None,
    prepared: Prepared,
    progress: IngestProgress,
    job: OpenJob,
    *,
    offer_others: bool,
) -> Enqueued:
    if job.rereads and (earlier := find_repeated(database, prepared.key)) is not None:
        return earlier  # another command with the key has read the source meanwhile
    ingested = _Ingest(database, job, prepared, progress)
    offer = QueueTopUp(database, broker, [step.lane for step in job.steps], None if offer_others else job.id)
    with tracing.span("ingest", {"docmill.job": job.id}) as span:
        ingested.read(offer)
        not_pruned = ingested.prune()
        documents, others = ingest.end(database, job, ingested.total, ingested.update_filters)
        span.set({"docmill.documents": documents, "docmill.records": ingested.total.records})
    total = ingested.total + others
    jobs.finish(database, job.id)
    if total.planned or job.adopted:
        offer.now()
    state, remarks = jobs.require(database, job.id).state, tuple(ingested.remarks)
    return Enqueued(job.id, job.adopted, documents, total, offer.deferred, not_pruned, state=state, remarks=remarks)


@dataclass
class QueueTopUp:
    """Tops the queue up while a long source is read, and remembers why it could not."""

    database: Database
    broker: Broker | None
    lanes: list[str]
    only_job: int | None
    deferred: str | None = None
    _due: float = 0.0

    def now_and_then(self) -> None:
        if time.monotonic() >= self._due:
            self.now()

    def now(self) -> None:
        try:
            if self.broker is not None:
                top_up(self.database, self.broker, self.lanes, only_job=self.only_job)
            self.deferred = NO_QUEUE if self.broker is None else None
        except BrokerUnreachable as error:
            self.deferred = f"{error}. The job is stored; a worker picks it up once Redis can be used."
        self._due = time.monotonic() + TOP_UP_EVERY_S


class _Ingest:
    """One reading of a source into its job. `total` counts the records stored so far.

    `remarks` are sentences about documents that steps leave out, once the source was read.
    """

    def __init__(self, database: Database, job: OpenJob, prepared: Prepared, progress: IngestProgress) -> None:
        self._database = database
        self._job = job
        self._source = prepared.source
        self._reading = prepared.reading
        self._progress = progress
        # Programs and pipes may give other documents each time; any other source is whole.
        is_whole = not prepared.source.name.startswith((StreamSource.name, memory.NAME))
        is_read_again = is_whole and prepared.reading.limit is None and job.last_before > 0
        self._seen = SeenDocuments() if prepared.reading.prune or is_read_again else None
        self._unread = Unread()
        self.total = Counts()
        self.remarks: list[str] = []
        progress.opened(job)

    def read(self, offer: QueueTopUp) -> None:
        """Store the source chunk by chunk, and offer shards meanwhile.

        Raises WorkerError and JobStopped, and ProgramFailed, which stops a job that no other call can continue.
        """
        kinds = KeyKinds()
        try:
            for chunk, rejected in prefetch(read_chunks(self._source)):
                self._reject(rejected)
                self.total += ingest.add(self._database, self._job, chunk, rejected, self._seen, kinds)
                self._reject(kinds.take(), stored=True)
                fault_points.reach("enqueue")
                self._progress.advanced(self.total)
                if self.total.planned:
                    offer.now_and_then()
        except ProgramFailed as error:
            if error.once:
                jobs.halt(self._database, self._job.id, str(error))
            raise
        if files := sum(self._source.ignored.values()):
            log.info("files_left_out job=%d files=%d", self._job.id, files)

    def update_filters(self) -> None:
        """Look for the documents of the corpus that steps leave out."""
        names = {step.leaves_out for step in self._job.steps if step.leaves_out is not None}
        for name in sorted(names):
            remark = find_filter(name).update(self._database, self._job.corpus_id, self._progress.noted)
            if remark is not None:
                self.remarks.append(remark)

    def prune(self) -> str | None:
        """Mark vanished documents, unless they may only have been unreadable; return the reason for marking none.

        Without --prune they are only named. So are documents of other sources, at the first reading of a source.
        Raises StorageError for more than the limit, which stops the job.
        """
        if self._seen is None:
            return None
        self._unread.left_out, self._unread.is_empty = self._source.ignored, not self.total.records
        reading = (self._database, self._job, self._seen, self._unread)
        if self._reading.prune:
            n_vanished, not_pruned = prune(
                *reading,
                most_percent=self._reading.prune_max,
                keep_rejected=self._reading.prune_rejected == "keep",
            )
            if not_pruned:
                log.warning("not_pruned job=%d rejected=%d", self._job.id, self._unread.n_rejected)
            self.total += Counts(vanished=n_vanished)
        else:
            not_pruned = note_missing(*reading)
        return not_pruned or note_other_sources(*reading)

    def _reject(self, rejected: Sequence[Rejection], *, stored: bool = False) -> None:
        """Tell of rejected records, and note them for pruning. Under --strict the first one stops the job."""
        for record in rejected[:1] if self._reading.strict else rejected:
            self._progress.rejected(record)
            if self._seen is not None:
                self._unread.reject(record.where, record.keys, record.below)
        if rejected and self._reading.strict:
            first = rejected[0]
            if not stored:  # so that `failures` lists what stopped it
                ingest.add(self._database, self._job, Chunk(), rejected[:1])
            jobs.halt(self._database, self._job.id, f"--strict: {first.where} was rejected")
            raise WorkerError(f"{first.where}: {first.reason} (--strict stops at the first)")
