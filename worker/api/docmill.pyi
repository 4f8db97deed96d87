"""Written by `make reference` from worker/api. Change it there."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeAlias, TypedDict, Unpack

import pandas
import pyarrow

class _Options(TypedDict, total=False):
    length: Literal['short', 'medium', 'long'] | int | None
    from_: str | None
    to: str | None
    unit: Literal['paragraph', 'sentence'] | None
    pooling: Literal['cls', 'mean', 'last'] | None
    windows: Literal['mean', 'all'] | None
    messages: str | None
    n: int | None
    raw: bool | None
    fill_context: bool | None
    hypothesis: str | None
    multi_label: bool | None
    aggregate: Literal['mean', 'max'] | None
    threshold: float | None
    pattern: Sequence[str] | None
    region: Sequence[str] | None
    entity: Sequence[str] | None
    replace: Literal['tag', 'hash', 'mask'] | None
    salt: str | None
    cite: bool | None
    question: str | Sequence[str] | Mapping[str, str] | None
    max_answer_tokens: int | None
    no_answer_threshold: float | None
    always_answer: bool | None
    prefix: str | None
    prompt_name: str | None
    schema: str | Mapping[str, Any] | None
    labels: str | Sequence[str] | Mapping[str, str] | None
    aggregation: Literal['simple', 'first', 'average', 'max'] | None
    min_new_tokens: int | None
    no_repeat_ngram_size: int | None
    stop: Sequence[str] | None
    length_penalty: float | None
    early_stopping: bool | None
    beams: int | None
    max_new_tokens: int | None
    system: str | None
    temperature: float | None
    top_p: float | None
    min_p: float | None
    seed: int | None
    repetition_penalty: float | None
    tokenizer: str | None
    prompt: str | None
    top_k: int | None
    window_tokens: int | None
    dtype: Literal['auto', 'float32', 'bfloat16', 'float16', 'int8'] | None
    adapter: str | None
    keep_first: bool | None
    escalate: str | None
    escalate_beams: int | None
    when: str | None
    max_failures: float | None
    max_flagged: float | None
    priority: int | None
    text_field: str | None
    id_field: str | None
    encoding: str | None
    sheet: str | None
    header_row: int | None
    ocr: str | None
    limit: int | None
    prune: bool | None
    prune_max: float | None
    prune_rejected: Literal['stop', 'keep'] | None
    strict: bool | None
    revision: str | None

class _SearchOptions(TypedDict, total=False):
    job: int | None
    exact: bool
    passages: bool
    prompt: str | None
    prompt_name: str | None
    progress: bool

class Error(Exception):
    """docmill could not do what was asked. The message is the one that the command line prints."""

class Unreachable(Error):
    """The database, the queue or the model hub cannot be reached or used."""

class TimedOut(Error, TimeoutError):
    """A job did not end in time. The workers continue it."""

class _ArrowTable(Protocol):
    """A table with Arrow's interface: of pandas, polars, pyarrow, DuckDB and others."""

    def __arrow_c_stream__(self, requested_schema: object=None) -> object:
        ...

_Documents: TypeAlias = str | os.PathLike[str] | Iterable[str | None] | Iterable[Mapping[str, Any]] | _ArrowTable

@dataclass(frozen=True)
class _Spec:
    """Everything that can change an output: the kind of task, the model with its revision, and the options.

    ``revision`` pins the weights: a hub commit (40 hex digits) or ``sha256:…`` of a local folder's files. ``quality``
    is ``native`` (the device's own precision), or a precision by name: ``float32``, ``bfloat16``, ``float16``,
    ``int8``. ``params`` holds only options that were given, as JSON values; the revision pins the model's own
    generation_config.
    """
    kind: str
    model: str
    revision: str
    quality: str = ...
    params: Mapping[str, Any] = ...

    def to_json(self) -> bytes:
        """The canonical form: UTF-8 JSON, keys sorted at every level, no white space."""
        ...

    @classmethod
    def from_json(cls, raw: bytes) -> _Spec:
        ...

    @property
    def sha256(self) -> bytes:
        """The spec's identity: SHA-256 (32 bytes) of its canonical JSON."""
        ...

class _Cause(StrEnum):
    """The reason why a job makes no progress."""
    READING = 'reading'
    NO_WORKER = 'no_worker'
    BLOCKED = 'blocked'
    BACKING_OFF = 'backing_off'
    STORE = 'store'
    LEASE = 'lease'
    PAUSED = 'paused'

@dataclass(frozen=True)
class _StepStatus:
    """A step of a job at one moment, in unique texts.

    `blocked` counts texts of the step before that have no output for this step: they failed, or were skipped or
    blocked. `escalated` counts the texts of the escalation. A text that waits for its escalation is `pending`, not
    `done`.
    """
    name: str
    input: str | None
    spec: _Spec
    done: int
    failed: int
    skipped: int
    blocked: int
    truncated: int
    pending: int
    prior: int
    tokens_in: int
    tokens_out: int
    escalated: _StepStatus | None = ...

    @property
    def texts(self) -> int:
        ...

class _Unknown(StrEnum):
    """The reason why the time left is not known."""
    TOO_LITTLE = 'too_little'
    STANDS = 'stands'
    ENDED = 'ended'

@dataclass(frozen=True)
class _TimeLeft:
    """The pace of a job, and the seconds that it still takes: nine times of ten between `low_s` and `high_s`.

    `high_s` is None if there is no upper bound: the source is still read, the pace varies too much, or a step has not
    begun. Then `left_s` counts only the known work. If nothing is known, `left_s` is None and `unknown` says why.
    Tokens are those that the model reads.
    """
    texts_per_s: float = ...
    tokens_per_s: float = ...
    left_s: float | None = ...
    low_s: float | None = ...
    high_s: float | None = ...
    unknown: _Unknown | None = ...

@dataclass(frozen=True)
class _TimeUse:
    """Shares from 0 to 1, over about the last minute of the workers that hold shards of a job.

    `device_busy` is the share of their working time in which their devices computed. The others are shares of the
    time of shards: `reading` texts from the store, `cutting` them into windows, `computing` (with the wait for the
    device), and `writing` results to the store. A worker may compute other jobs at the same time.
    """
    device_busy: float
    reading: float
    cutting: float
    computing: float
    writing: float

@dataclass(frozen=True)
class Status:
    """A job at one moment. `done`, `failed`, `skipped` and `pending` count unique texts, `documents` documents.

    Of a job with several `steps` the counts are the sums over all of them.

    `state` is also `paused`, and `blocked` while every live worker refuses what is left. `truncated` are those of the
    done ones whose output stopped at the model's limit, without those of steps with an escalation: it may have
    replaced them, and the flags of the results say how many are left.

    `computed` texts of those to do are computed and not yet written, in part where windows are left.
    `time_left` has the pace, and the time left as an interval; `tokens_per_s` and `eta_s` are its tokens and its
    middle. Of a job that has ended the pace is the mean from its first shard to its last; that of a job that makes no
    progress is 0.

    `time_use` says where the time of its workers goes, while they hold shards of it.

    `waiting_for` says why nothing moves, when nothing does, and `waiting_cause` says it in one word. `not_pruned`
    says why documents that are missing from the source were not marked as vanished. `swept`, `lost` and `removed` say
    what was removed of a job since it ended (see `storage.results.swept`); `list_statuses` does not look for them.
    """
    id: int
    state: str
    reason: str | None
    corpus: str
    source: str
    steps: tuple[_StepStatus, ...]
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
    time_left: _TimeLeft
    time_use: _TimeUse | None
    created_at: float
    finished_at: float | None
    elapsed_s: float
    waiting_for: str | None
    waiting_cause: _Cause | None
    not_pruned: str | None = ...
    lost: int = ...
    removed: int = ...
    swept: tuple[str, ...] = ...
    request_id: str | None = ...

    @property
    def spec(self) -> _Spec:
        """The first step's."""
        ...

    @property
    def is_backfill(self) -> bool:
        """True if the job computes a corpus by the model that it is migrated to."""
        ...

    @property
    def computing(self) -> tuple[_StepStatus, ...]:
        """All that have shards, by number: the steps, and after them the escalations."""
        ...

    @property
    def texts(self) -> int:
        ...

    @property
    def no_worker(self) -> bool:
        """True if the job waits for a worker to be started."""
        ...

    @property
    def blocked(self) -> bool:
        """True if no live worker can serve its spec."""
        ...

    @property
    def ended(self) -> bool:
        ...

@dataclass(frozen=True)
class Hit:
    """A document that was found. `score` is the cosine of its vector with the query's.

    `passage` is the part of the text that matched, or None if the text has only one vector and `passages` was False.
    `meta` has the document's other fields.
    """
    id: str
    score: float
    text: str
    passage: str | None
    meta: Mapping[str, Any]

@dataclass(frozen=True)
class _Duplicates:
    """The counts of the clusters of a corpus.

    Of its `documents`, `in_clusters` are in one of the `clusters`, and `repeats` are not the first of theirs. With
    `keep_first=True` a task reads `repeated_texts` fewer unique `texts`, and so `repeated_chars` fewer `chars`.
    """
    documents: int
    clusters: int
    in_clusters: int
    repeats: int
    texts: int
    repeated_texts: int
    chars: int
    repeated_chars: int

class Job:
    """A job in the store. `id` is its number, as `docmill jobs` lists it."""
    id: int

    def status(self) -> Status:
        """Return the job's state and counts, with the names of `docmill status --json`."""
        ...

    def wait(self, timeout: float | None=None, *, progress: bool=True) -> Status:
        """Wait for the end of the job, and return its final status.

        It also returns if every worker has refused the job for more than a minute; `blocked` is then true.
        `timeout` is in seconds. `progress` shows a bar on stderr. Raises TimedOut.
        """
        ...

    async def wait_async(self, timeout: float | None=None, *, progress: bool=False) -> Status:
        """Wait as `wait` does, without blocking the event loop."""
        ...

    def results(self, *, step: str | None=None, flagged: bool | Collection[str]=False, unflagged: bool | Collection[str]=False, with_input: bool=False, partial: bool=False) -> Iterator[dict[str, Any]]:
        """Yield the results, in the order of the source, as dictionaries with the keys of `docmill results`.

        It reads them page by page. A vector is a float32 array. `flagged` and `unflagged` are True for all doubtful
        flags, or a condition such as "empty" or "confidence<0.4", or several. `partial` yields the results so far of
        a job that has not ended; without it, such a job raises Error.
        """
        ...

    def to_arrow(self, *, step: str | None=None, partial: bool=False) -> pyarrow.Table:
        """Return the results as an Arrow table, with the columns of Parquet files of results.

        Vectors are lists of fixed size, labels and spans lists of structs. Raises Error.
        """
        ...

    def to_pandas(self, *, step: str | None=None, partial: bool=False) -> pandas.DataFrame:
        """Return the results as a pandas frame. Raises Error."""
        ...

    def failures(self) -> Iterator[dict[str, Any]]:
        """Yield the documents and records without a result: {"id", "status", "class", "reason"}."""
        ...

    def retry(self, only: Literal['transient', 'document', 'model'] | None=None) -> int:
        """Make the workers try all failed texts again, or those of a class. Return their number. Raises Error."""
        ...

    def cancel(self) -> bool:
        """Stop the job; finished results stay. Return False if it had ended already."""
        ...

    def pause(self) -> bool:
        """Hold the job until `resume`; work under way is dropped. Return False if it had ended already."""
        ...

    def resume(self) -> bool:
        """Resume a paused job. Return False if it had ended already."""
        ...

    def priority(self, priority: int) -> bool:
        """Change the priority; a higher one goes first. Return False if the job had ended already. Raises Error."""
        ...

    def explain(self, document: str, *, step: str | None=None) -> dict[str, Any]:
        """Return how the result of a document came to be, as `docmill explain --json` does. Raises Error."""
        ...

    def report(self, path: str | os.PathLike[str], *, with_text: bool=True) -> None:
        """Write the page of HTML that `docmill report` writes, with the job's cost if DOCMILL_PRICES is set.

        Without `with_text` it has no texts, ids of documents and reasons of failures. Raises Error.
        """
        ...

_Rows: TypeAlias = list[dict[str, Any]]

class _Pipelines:
    """The pipelines of a store: files with several steps over a corpus, run by hand or on a schedule."""

    def list(self) -> _Rows:
        """Return the stored pipelines with their last and next runs, as `docmill pipeline list --json` does."""
        ...

    def add(self, file: str | os.PathLike[str]) -> str:
        """Store the pipeline in a file, or a new version of it, and return its name. Raises Error."""
        ...

    def run(self, file: str | os.PathLike[str], *, progress: bool=True) -> Job:
        """Run the pipeline in a file on this machine, write its output file, and return its job. Raises Error."""
        ...

    def history(self, name: str, limit: int=20) -> _Rows:
        """Return the runs of a stored pipeline, newest first, as `docmill pipeline history --json` does."""
        ...

_Folder: TypeAlias = str | os.PathLike[str]

class Mill:
    """A store and its queue. `close` closes it, and so does the end of a `with` block.

    `pipelines` has the store's pipelines.
    """
    pipelines: _Pipelines

    def __enter__(self) -> Self:
        ...

    def __exit__(self, *error: object) -> None:
        ...

    def close(self) -> None:
        """Close the connections to the database. The Mill, its jobs and its pipelines raise Error from then on."""
        ...

    def run(self, documents: _Documents, task: str, *, model: str | None=None, corpus: str | None=None, endpoint: str | None=None, progress: bool=True, **options: Unpack[_Options]) -> pyarrow.Table:
        """Run a task over documents, and return an Arrow table with a row for each, in their order.

        The fleet's workers compute. Without a queue (`redis_url`), this machine does. Documents and options are
        those of `docmill.run`; `endpoint` is for this machine, since workers have their own. Raises Error.
        """
        ...

    def enqueue(self, documents: _Documents, task: str, *, model: str | None=None, corpus: str | None=None, idempotency_key: str | None=None, progress: bool=True, **options: Unpack[_Options]) -> Job:
        """Store documents as a job for the workers, and return it. Documents and options are those of `docmill.run`.

        It returns once the documents are stored. The same call again continues an unfinished job. The same
        `idempotency_key` again returns the same job, also one that has ended; other arguments are refused. Raises
        Error.
        """
        ...

    def job(self, job_id: int) -> Job:
        """Return the job of this number. Raises Error if there is none."""
        ...

    def jobs(self, limit: int=20) -> list[Status]:
        """Return the status of the latest jobs, newest first."""
        ...

    def search(self, corpus: str, text: str, *, top: int=10, job: int | None=None, exact: bool=False, passages: bool=True, prompt: str | None=None, prompt_name: str | None=None, progress: bool=False) -> list[Hit]:
        """Return the documents of a corpus that are nearest to a text, the nearest first.

        The corpus is named as in `run`, or by the path of its source; an `embed` job must have run over it. This
        machine embeds the text. The options are those of `docmill search`. Raises Error.
        """
        ...

    def dedup(self, corpus: str, *, threshold: float | None=None, shingle: tuple[Literal['words', 'characters'], int] | None=None, seed: int | None=None, embeddings: bool=False, job: int | None=None, progress: bool=False) -> _Duplicates:
        """Find the near duplicates of a corpus, and return the counts of its clusters.

        The corpus is named as in `run`, or by the path of its source. `shingle` is ("words", 3) or ("characters", 5).
        The options are those of `docmill dedup`. With `keep_first=True`, `run` and `enqueue` read only the first
        document of each cluster. Raises Error.
        """
        ...

def run(documents: _Documents, task: str, *, model: str | None=None, corpus: str | None=None, device: str | None=None, backend: str | None=None, endpoint: str | None=None, store: _Folder | None=None, progress: bool=True, **options: Unpack[_Options]) -> pyarrow.Table:
    """Run a task over documents on this machine, and return an Arrow table with a row for each, in their order.

    `documents` are texts, dictionaries, a pandas or polars frame, an Arrow table, or the name of a source as
    `docmill run` takes it. A table or a dictionary has its text in `text_field` ("text") and its id in `id_field`
    ("id"); other fields are metadata. The id of a document without one is its position.

    `options` are those of `docmill run`, with underscores: `top_k=3`, `from_="fr"`. Every text is computed once, and
    the same call again computes nothing. `endpoint` is the URL of the server of models named `openai:NAME`. `store`
    is the folder of an embedded store; without it, the call uses the store of the `docmill` command.

    A document that fails is a row: its "status" is not `done`, and "reason" says why. Raises Error.
    """
    ...

def search(corpus: str, text: str, *, top: int=10, device: str | None=None, backend: str | None=None, store: _Folder | None=None, **options: Unpack[_SearchOptions]) -> list[Hit]:
    """Return the documents of a corpus that are nearest to a text, as `Mill.search` does. Raises Error."""
    ...

def connect(database_url: str | None=None, redis_url: str | None=None, *, device: str | None=None, backend: str | None=None, endpoint: str | None=None, store: _Folder | None=None) -> Mill:
    """Connect to a fleet: its database, and its queue.

    The default URLs are those of the settings (DOCMILL_DATABASE_URL, DOCMILL_REDIS_URL). Without these it opens the
    embedded store on this machine; `store` is its folder. `device`, `backend` and `endpoint` are for work on this
    machine: the texts of searches, and all tasks if there is no queue. Raises Error.
    """
    ...
