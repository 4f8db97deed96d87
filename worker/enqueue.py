"""From a source and a task to a job in the store: the same for the command line, for pipelines and for orders."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, BinaryIO, Protocol

from storage import jobs
from storage.database import Database
from storage.disposal.pruning import Limits, Pruned, Seen, prune
from storage.disposal.unread import Unread
from storage.errors import TooManyVanished
from storage.flow.steps import StepRequest
from storage.intake import ingest
from storage.intake.chunks import Gathering, Rejected
from storage.intake.gathering import chunks
from storage.intake.ingest import Counts
from storage.intake.kinds import KeyKinds
from storage.jobs import JobRequest, OpenJob
from storage.readers import Source, SourceOptions, left_out, open_source, recoding
from storage.specs import Spec
from tasks import kinds, models, polyglot, prompts
from tasks.errors import BadOption
from tasks.kinds import KindOptions
from tasks.plan import build_spec
from worker import faultpoints, prune_rejected
from worker.ahead import ahead
from worker.broker import Broker
from worker.errors import BrokerUnreachable, WorkerError
from worker.progress import Progress
from worker.rehearsal import require_possible
from worker.settings import Settings
from worker.topup import top_up

log = logging.getLogger("docmill.enqueue")

NO_QUEUE = "DOCMILL_REDIS_URL is not set. The job is stored; `docmill worker` picks it up."
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
    options: KindOptions = field(default_factory=KindOptions)
    corpus: str | None = None
    text_field: str = "text"
    id_field: str = "id"
    encoding: str | None = None
    limit: int | None = None
    strict: bool = False
    prune: bool = False
    prune_max: float | None = None
    prune_rejected: str | None = None
    priority: int = 0
    max_failures: float | None = None

    @property
    def read_as(self) -> dict[str, Any]:
        """The options of reading that an ingest remembers."""
        said = {"text_field": self.text_field, "id_field": self.id_field, "limit": self.limit}
        return said if self.encoding is None else said | {"encoding": self.encoding}

    @property
    def pruning(self) -> Limits | None:
        """The limits of pruning; None for a request without --prune."""
        if not self.prune:
            return None
        most = Limits.most_percent if self.prune_max is None else self.prune_max
        return Limits(most, keep_rejected=self.prune_rejected == prune_rejected.KEEP)


@dataclass(frozen=True)
class Prepared:
    """A request whose models were found, whose options fit them and whose source can be read."""

    request: Request
    steps: tuple[StepRequest, ...]
    source: Source
    corpus: str

    @property
    def spec(self) -> Spec:
        """The first step's."""
        return self.steps[0].spec


@dataclass(frozen=True)
class Enqueued:
    """A job as it stands once its source was read. `deferred` says why nothing was sent to the queue yet.

    `not_pruned` says why documents that are missing from the source were not marked as vanished.
    """

    id: int
    adopted: bool
    documents: int
    counts: Counts
    deferred: str | None
    not_pruned: str | None = None


def prepare(
    settings: Settings, request: Request, stdin: BinaryIO | None = None, devices: Sequence[str] = ()
) -> Prepared:
    """Check everything that can be checked before anything is stored.

    ``devices`` are those of this machine that will compute it, if any will.

    Raises SourceError for the source, ModelError for the model, BadOption for the options or for the want of a model,
    BadCorpusName.
    """
    if request.prune and request.limit is not None:
        raise BadOption("--prune and --limit do not go together: what lies behind the limit has not vanished.")
    for option, value in (("--prune-max", request.prune_max), ("--prune-rejected", request.prune_rejected)):
        if value is not None and not request.prune:
            raise BadOption(f"{option} says how --prune works: give --prune too.")
    source = open_source(request.source, reading(request, [request.options]), stdin=stdin)
    spec = spec_of(settings, request.task, request.model, request.revision, request.options)
    require_possible(settings, spec, devices)
    steps = (StepRequest(request.task, spec),)
    return Prepared(request, steps, source, storable(request.corpus or _corpus_name(source, request.limit)))


class Read(Protocol):
    """How records are read: what a request and a pipeline's corpus both say."""

    @property
    def text_field(self) -> str: ...

    @property
    def id_field(self) -> str: ...

    @property
    def encoding(self) -> str | None: ...

    @property
    def limit(self) -> int | None: ...


def reading(read: Read, asked: Iterable[KindOptions]) -> SourceOptions:
    """How a source is to be read for steps of these options. Raises BadOption for a template that is none."""
    templates = [prompts.check(options.template) for options in asked if options.template is not None]
    wanted = {name for template in templates for name in template.fields}
    for name, what in ((read.text_field, "text: write {text}"), (read.id_field, "id, which is no metadata")):
        if name in wanted:
            raise BadOption(f"--prompt: {{meta.{name}}} is the document's {what}.")
    expected = tuple(dict.fromkeys(name for template in templates for name in template.expected))
    encoding = None if read.encoding is None else recoding.known(read.encoding)
    return SourceOptions(read.text_field, read.id_field, expected, read.limit, encoding=encoding)


def spec_of(settings: Settings, task: str, model: str | None, revision: str | None, options: KindOptions) -> Spec:
    """The spec of a task, its model found and pinned, the options held against it. Raises ModelError, BadOption."""
    name = model or models.DEFAULTS.get(task)
    if name is None:
        raise BadOption(f"{task} has no model of its own: give one with --model.")
    by_language = polyglot.parse(name)
    if by_language is None:
        pinned, config = _found(settings, name, revision)
        models.require(task, pinned, models_dir=settings.models_dir)
        stated = models.read_prompts(pinned, models_dir=settings.models_dir) if kinds.kind(task).pools else None
        return build_spec(task, pinned, options, config, stated)
    if revision is not None:
        raise BadOption("--revision is of one model; with several, give the revision of each as its own folder.")
    parts = {language: _found(settings, model, None) for language, model in by_language.items()}
    return polyglot.build_spec(task, parts, options)


def _found(settings: Settings, model: str, revision: str | None) -> tuple[models.Pinned, dict[str, Any]]:
    """A model's exact weights and its config.json."""
    pinned = models.pin(model, models_dir=settings.models_dir, cache_dir=settings.cache_dir, revision=revision)
    return pinned, models.read_config(pinned, models_dir=settings.models_dir)


def _corpus_name(source: Source, limit: int | None) -> str:
    """Where none is given: the source's own name; what is piped in is new each time, a sample is not the whole."""
    name = f"stdin {datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}" if source.name == "-" else source.name
    return name if limit is None else f"{name} (first {limit})"


def storable(corpus: str) -> str:
    """The name, if a corpus can have it. Raises BadCorpusName."""
    try:
        if len(corpus.encode()) > MAX_NAME_BYTES or "\0" in corpus:
            raise BadCorpusName
    except UnicodeEncodeError as error:
        raise BadCorpusName from error
    return corpus


def enqueue(
    database: Database,
    broker: Callable[[], Broker | None],
    prepared: Prepared,
    progress: Progress | None = None,
    *,
    offer_others: bool = True,
) -> Enqueued:
    """Store the source's documents as a job and offer its first shards to the queue, and other jobs' in their turn.

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
            steps=prepared.steps,
            options=request.read_as,
            priority=request.priority,
            max_failures=request.max_failures,
        ),
    )
    progress.opened(job)
    limits = request.pruning
    seen, unread = Seen() if limits else None, Unread()
    offer = _Offer(database, broker, job.lanes, None if offer_others else job.id)
    total = Counts()
    kinds = KeyKinds()

    def reject(rejected: Sequence[Rejected], *, stored: bool = False) -> None:
        for one in rejected[:1] if request.strict else rejected:
            progress.rejected(one)
            if limits is not None:
                unread.reject(one.place, one.keys, one.below)
        if rejected and request.strict:
            if not stored:  # so that `failures` lists what stopped it
                ingest.add(database, job, Gathering().chunk(), rejected[:1])
            jobs.halt(database, job.id, f"--strict: {rejected[0].place} was rejected")
            raise RecordRejected(f"{rejected[0].place}: {rejected[0].reason} (--strict stops at the first)")

    for chunk, rejected in ahead(chunks(prepared.source)):
        reject(rejected)
        total += ingest.add(database, job, chunk, rejected, seen, kinds)
        reject(kinds.take(), stored=True)
        faultpoints.reach("enqueue")
        progress.advanced(total)
        if total.planned:
            offer.now_and_then()
    if others_left := left_out(prepared.source):
        log.info("files_left_out job=%d files=%d", job.id, sum(others_left.values()))
    pruned = Pruned()
    if limits is not None and seen is not None:
        unread.left_out, unread.is_empty = left_out(prepared.source), not total.records
        pruned = _prune(database, job, seen, unread, limits)
        total += Counts(vanished=pruned.vanished)
    documents, others = ingest.end(database, job, total)
    total += others
    jobs.finish(database, job.id)
    if total.planned or job.adopted:
        offer.now()
    return Enqueued(job.id, job.adopted, documents, total, offer.deferred, pruned.not_pruned)


def _prune(database: Database, job: OpenJob, seen: Seen, unread: Unread, limits: Limits) -> Pruned:
    """Mark what vanished from the source, unless it may only have been unreadable; stop the job at the limit."""
    try:
        pruned = prune(database, job, seen, unread, limits)
    except TooManyVanished as error:
        jobs.halt(database, job.id, str(error))
        raise
    if pruned.not_pruned:
        log.warning("not_pruned job=%d rejected=%d", job.id, unread.n_rejected)
    return pruned


class _Offer:
    """Tops the queue up while a long source is read, and remembers why it could not."""

    def __init__(
        self, database: Database, broker: Callable[[], Broker | None], lanes: list[str], only_job: int | None
    ) -> None:
        self._database = database
        self._broker = broker
        self._lanes = lanes
        self._only_job = only_job
        self._due = 0.0
        self.deferred: str | None = None

    def now_and_then(self) -> None:
        if time.monotonic() >= self._due:
            self.now()

    def now(self) -> None:
        try:
            broker = self._broker()
            if broker is not None:
                top_up(self._database, broker, self._lanes, only_job=self._only_job)
            self.deferred = NO_QUEUE if broker is None else None
        except BrokerUnreachable as error:
            self.deferred = f"{error} The job is stored; a worker picks it up when Redis is back."
        self._due = time.monotonic() + TOP_UP_EVERY_S
