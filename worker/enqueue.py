"""From a source and a task to a job in the store: the same for the command line and for the Celery task."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, BinaryIO

from storage import ingest, jobs
from storage.database import Database
from storage.errors import StorageError
from storage.ingest import CHUNK_RECORDS, Counts, Incoming, Rejected
from storage.jobs import JobRequest, OpenJob
from storage.readers import Record, Source, SourceOptions, open_source
from storage.specs import Spec
from tasks import models
from tasks.plan import Options, build_spec
from worker import faultpoints
from worker.broker import Broker
from worker.errors import BadMessage, BrokerUnreachable, WorkerError
from worker.messages import VERSION
from worker.settings import Settings
from worker.topup import top_up

log = logging.getLogger("docmill.enqueue")

NO_QUEUE = "DOCMILL_REDIS_URL is not set. The job is stored; `docmill worker` picks it up."
CHUNK_CHARS = 8_000_000  # so that a chunk of long documents stays a short transaction in little memory
MAX_NAME_BYTES = 2_000  # PostgreSQL's limit for one entry of an index is 2,704 bytes
TOP_UP_EVERY_S = 2.0


class RecordRejected(WorkerError):
    """A record was rejected, and --strict stops at the first."""


class BadCorpusName(WorkerError):
    """A corpus has a name of at most 2,000 bytes of UTF-8; give it one with --corpus."""


@dataclass(frozen=True)
class Request:
    """A source, what to do with it, and how to read it. Named as the command's options are."""

    source: str
    task: str
    model: str | None = None
    revision: str | None = None
    options: Options = field(default_factory=Options)
    corpus: str | None = None
    text_field: str = "text"
    id_field: str = "id"
    limit: int | None = None
    strict: bool = False
    priority: int = 0
    max_failures: float | None = None


@dataclass(frozen=True)
class Prepared:
    """A request whose model was found, whose options fit it and whose source can be read."""

    request: Request
    spec: Spec
    source: Source
    corpus: str


@dataclass(frozen=True)
class Enqueued:
    """A job as it stands once its source was read. `deferred` says why nothing was sent to the queue yet."""

    id: int
    adopted: bool
    documents: int
    counts: Counts
    deferred: str | None


def prepare(settings: Settings, request: Request, stdin: BinaryIO | None = None) -> Prepared:
    """Check everything that can be checked before anything is stored.

    Raises SourceError for the source, ModelError for the model, BadOption for the options, BadCorpusName.
    """
    source = open_source(
        request.source, SourceOptions(request.text_field, request.id_field, request.limit), stdin=stdin
    )
    pinned = models.pin(
        request.model or models.DEFAULTS[request.task],
        models_dir=settings.models_dir,
        cache_dir=settings.cache_dir,
        revision=request.revision,
    )
    config = models.read_config(pinned, models_dir=settings.models_dir)
    spec = build_spec(request.task, pinned, request.options, config)
    return Prepared(request, spec, source, _storable(request.corpus or _corpus_name(source, request.limit)))


def _corpus_name(source: Source, limit: int | None) -> str:
    """Where none is given: the source's own name; what is piped in is new each time, a sample is not the whole."""
    name = f"stdin {datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}" if source.name == "-" else source.name
    return name if limit is None else f"{name} (first {limit})"


def _storable(corpus: str) -> str:
    try:
        if len(corpus.encode()) > MAX_NAME_BYTES or "\0" in corpus:
            raise BadCorpusName
    except UnicodeEncodeError as error:
        raise BadCorpusName from error
    return corpus


class Progress:
    """What an ingest tells while it runs; this one tells nothing. Counts are totals so far."""

    def opened(self, job: OpenJob) -> None:
        """The job has its number."""

    def advanced(self, counts: Counts) -> None:
        """Another chunk is stored."""

    def rejected(self, rejected: Rejected) -> None:
        """A record could not be read."""


def enqueue(
    database: Database, broker: Callable[[], Broker | None], prepared: Prepared, progress: Progress | None = None
) -> Enqueued:
    """Store the source's documents as a job and offer its first shards to the queue.

    Durable when it returns, whether Redis is up or not. Run again after a crash it carries the same job on.
    `broker` is asked when there is something to send. Raises RecordRejected under `strict`, JobStopped when the
    job was cancelled meanwhile.
    """
    progress = progress or Progress()
    request = prepared.request
    job = jobs.open_job(
        database,
        JobRequest(
            corpus=prepared.corpus,
            source=prepared.source.name,
            spec=prepared.spec,
            options={"text_field": request.text_field, "id_field": request.id_field, "limit": request.limit},
            priority=request.priority,
            max_failures=request.max_failures,
        ),
    )
    progress.opened(job)
    offer = _Offer(database, broker, job.lane)
    total = ingest.sweep(database, job)
    for chunk, rejected in _chunks(prepared.source):
        for one in rejected[:1] if request.strict else rejected:
            progress.rejected(one)
        if rejected and request.strict:
            ingest.add(database, job, [], rejected[:1])  # so that `failures` lists what stopped it
            jobs.halt(database, job.id, f"--strict: {rejected[0].place} was rejected")
            raise RecordRejected(f"{rejected[0].place}: {rejected[0].reason} (--strict stops at the first)")
        total += ingest.add(database, job, chunk, rejected)
        faultpoints.reach("enqueue")
        progress.advanced(total)
        if total.planned:
            offer.now_and_then()
    documents = ingest.end(database, job)
    jobs.finish(database, job.id)
    if total.planned or job.adopted:
        offer.now()
    return Enqueued(job.id, job.adopted, documents, total, offer.deferred)


class _Offer:
    """Tops the queue up while a long source is read, and remembers why it could not."""

    def __init__(self, database: Database, broker: Callable[[], Broker | None], lane: str) -> None:
        self._database = database
        self._broker = broker
        self._lane = lane
        self._due = 0.0
        self.deferred: str | None = None

    def now_and_then(self) -> None:
        if time.monotonic() >= self._due:
            self.now()

    def now(self) -> None:
        try:
            broker = self._broker()
            if broker is not None:
                top_up(self._database, broker, [self._lane])
            self.deferred = NO_QUEUE if broker is None else None
        except BrokerUnreachable as error:
            self.deferred = f"{error} The job is stored; a worker picks it up when Redis is back."
        self._due = time.monotonic() + TOP_UP_EVERY_S


def _chunks(source: Source) -> Iterator[tuple[list[Incoming], list[Rejected]]]:
    chunk: list[Incoming] = []
    rejected: list[Rejected] = []
    n_chars = 0
    for seq, record in enumerate(source.records()):
        if isinstance(record, Record):
            chunk.append(Incoming(record.key, record.text, record.meta, record.flags, seq))
            n_chars += len(record.text)
        else:
            rejected.append(Rejected(record.where, record.reason, record.fatal))
        if len(chunk) + len(rejected) >= CHUNK_RECORDS or n_chars >= CHUNK_CHARS:
            yield chunk, rejected
            chunk, rejected, n_chars = [], [], 0
    if chunk or rejected:
        yield chunk, rejected


_OPTION_FIELDS = {f.name for f in fields(Options)}
_REQUEST_FIELDS = {f.name for f in fields(Request)} - {"options"}
_WHOLE_NUMBERS = {"beams", "max_new_tokens", "window_tokens", "limit", "priority"}


def parse_enqueue(arguments: dict[str, Any]) -> Request:
    """A request from the arguments of a `docmill.enqueue` message, which are named as the command's options.

    Raises BadMessage for an unknown or missing name, or a value that is no plain one.
    """
    given = dict(arguments)
    if given.pop("v", VERSION) != VERSION:
        raise BadMessage(f"docmill.enqueue takes v={VERSION}")
    given = {{"from": "source_lang", "to": "target_lang"}.get(name, name): value for name, value in given.items()}
    if unknown := sorted(given.keys() - _OPTION_FIELDS - _REQUEST_FIELDS):
        raise BadMessage(f"docmill.enqueue takes no argument {', '.join(unknown)}")
    if missing := sorted({"source", "task"} - given.keys()):
        raise BadMessage(f"docmill.enqueue needs {' and '.join(missing)}")
    for name, value in given.items():
        if not isinstance(value, _type_of(name)) or (isinstance(value, bool) and name != "strict"):
            raise BadMessage(f"docmill.enqueue: {name} has a value of the wrong type")
        if isinstance(value, int | float) and abs(value) >= 2**31:
            raise BadMessage(f"docmill.enqueue: {name} is too large a number")
    if given["task"] not in models.DEFAULTS:
        raise BadMessage(f"docmill.enqueue: task is one of {', '.join(models.DEFAULTS)}")
    if given.get("limit", 1) is not None and given.get("limit", 1) < 1:
        raise BadMessage("docmill.enqueue: limit is at least 1")
    if given["source"] == "-":
        raise BadMessage("docmill.enqueue cannot read standard input")
    options = Options(**{name: value for name, value in given.items() if name in _OPTION_FIELDS})
    return Request(options=options, **{name: value for name, value in given.items() if name in _REQUEST_FIELDS})


def _type_of(name: str) -> Any:
    if name in {"source", "task", "text_field", "id_field"}:
        return str
    if name in _WHOLE_NUMBERS:
        return int if name == "priority" else int | None
    if name == "max_failures":
        return int | float | None
    return bool if name == "strict" else str | None


def enqueue_message(settings: Settings, database: Database, broker: Broker, arguments: dict[str, Any]) -> None:
    """Carry out a `docmill.enqueue` message. What is wrong with it is logged; a message has nobody to tell."""
    from tasks.errors import TaskError

    try:
        done = enqueue(database, lambda: broker, prepare(settings, parse_enqueue(arguments)))
    except (WorkerError, TaskError, StorageError) as error:
        log.error("enqueue_refused error=%s reason=%r", type(error).__name__, str(error))
        return
    log.info("enqueued job=%d documents=%d planned=%d", done.id, done.documents, done.counts.planned)
