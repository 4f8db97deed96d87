"""Work on this machine and on a fleet, for the Python API."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeAlias, TypedDict, Unpack

from docmill.storage.core.database import Database
from docmill.storage.results.status import JobStatus, list_statuses
from docmill.tasks import kinds
from docmill.tasks.errors import BadOption, suggest
from docmill.tasks.kinds.options import key, parsed
from docmill.worker.api.documents import Documents, ReadOnce, make_table_by_row, one_run_at_a_time, require_arrow
from docmill.worker.api.errors import Error, explained, require_texts, require_whole_number
from docmill.worker.api.job import Job, Pipelines, in_a_thread, listen
from docmill.worker.engines import devices_for
from docmill.worker.formatting import summary
from docmill.worker.jobs import Listener
from docmill.worker.jobs.run import KeptWorker, run_request
from docmill.worker.jobs.search import MOST_HITS, SearchOptions, open_search, query_record
from docmill.worker.jobs.submission import submit
from docmill.worker.settings import Settings, load_settings
from docmill.worker.stores import connect_store
from docmill.worker.submit.options import Request, Work

if TYPE_CHECKING:
    import pyarrow


Task: TypeAlias = Literal[
    "answer", "classify", "embed", "entities", "extract", "generate", "redact", "sparse", "summarize", "translate"
]


class Options(TypedDict, total=False):
    """Options of a job by their names in Python. docs/command-line.md describes them."""

    model: str | None
    corpus: str | None
    length: Literal["short", "medium", "long"] | int | None
    from_: str | None
    to: str | None
    unit: Literal["paragraph", "sentence"] | None
    pooling: Literal["cls", "mean", "last"] | None
    window_vectors: Literal["mean", "all"] | None
    messages: str | None
    n: int | None
    raw: bool | None
    fill_context: bool | None
    hypothesis: str | None
    multi_label: bool | None
    window_score: Literal["mean", "max"] | None
    threshold: float | None
    pattern: Sequence[str] | None
    region: Sequence[str] | None
    entity: Sequence[str] | None
    replace: Literal["tag", "hash", "mask"] | None
    salt: str | None
    cite: bool | None
    question: str | Sequence[str] | Mapping[str, str] | None
    max_answer_tokens: int | None
    no_answer_threshold: float | None
    always_answer: bool | None
    prefix: str | None
    model_prompt: str | None
    schema: str | Mapping[str, Any] | None
    labels: str | Sequence[str] | Mapping[str, str] | None
    word_label: Literal["simple", "first", "average", "max"] | None
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
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] | None
    adapter: str | None
    leave_out: str | None
    escalate: str | None
    escalate_beams: int | None
    when: str | None
    max_failures: float | None
    max_flagged: float | None
    max_cost: float | None
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
    prune_rejected: Literal["stop", "keep"] | None
    strict: bool | None
    revision: str | None
    request_id: str | None


def python_name(spelling: str) -> str:
    """Return an option's name in Python: `from_` for --from, `top_k` for --top-k."""
    name = spelling.replace("-", "_")
    return f"{name}_" if iskeyword(name) else name


_OF_KINDS = {python_name(key(name, field)): name for name, field in kinds.OPTIONS.items()}
NAMES = (*_OF_KINDS, *(name for name in Work.model_fields if name not in {"source", "task"}), "request_id")


def request_of(
    settings: Settings, source: str, task: str, arguments: Mapping[str, Any], key: str | None = None
) -> Request:
    """Return the request in the options of a call. None stands for an option that was not given.

    Raises BadOption.
    """
    require_texts(task=task)
    for name in arguments:
        if name not in NAMES:
            advice = suggest(name, NAMES, "`docmill run TASK --help` lists the options.")
            raise BadOption(f"There is no option {name}. {advice}")
    values = {name: value for name, value in arguments.items() if value is not None}
    of_kind = {_OF_KINDS[name]: values.pop(name) for name in [*values] if name in _OF_KINDS}
    options = kinds.options(task, **{"dtype": settings.dtype, **of_kind})
    named = {"source": source, "task": task, "idempotency_key": key}
    return parsed(Request, {"options": options, **named, **values})


Folder: TypeAlias = str | os.PathLike[str]
_OF_WORKERS = (
    "the workers of a fleet have an endpoint of their own: leave endpoint out, and start them with "
    "`docmill worker --endpoint URL`"
)


@explained
def run(
    documents: Documents,
    task: Task,
    *,
    device: str | None = None,
    backend: str | None = None,
    endpoint: str | None = None,
    store: Folder | None = None,
    with_input: bool = False,
    progress: bool = True,
    **options: Unpack[Options],
) -> pyarrow.Table:
    """Run a task over documents on this machine, and return an Arrow table with a row for each, in their order.

    `documents` are texts, dictionaries, a pandas or polars frame, an Arrow table, or the name of a source as
    `docmill run` takes it. A table or a dictionary has its text in `text_field` ("text") and its id in `id_field`
    ("id"); other fields are metadata. The id of a document without one is its position.

    `options` are those of `docmill run`, with underscores: `top_k=3`, `from_="fr"`. Every text is computed once, and
    the same call again computes nothing. `endpoint` is the URL of the server of models named `openai:NAME`. `store`
    is the folder of an embedded store; without it, the call uses the store of the `docmill` command.

    A document that fails is a row: its "status" is not `done`, and "reason" says why. `with_input` adds the texts as
    the column "input". Raises Error.
    """
    settings = _settings(store=store, device=device, backend=backend, endpoint=endpoint)
    return _computed(settings, documents, task, options, with_input, listen(progress))


async def run_async(
    documents: Documents,
    task: Task,
    *,
    device: str | None = None,
    backend: str | None = None,
    endpoint: str | None = None,
    store: Folder | None = None,
    with_input: bool = False,
    progress: bool = False,
    **options: Unpack[Options],
) -> pyarrow.Table:
    """Run a task as `run` does, without blocking the event loop.

    If this coroutine is cancelled, the run ends as by Ctrl-C: the same call continues it. Raises Error.
    """
    settings = _settings(store=store, device=device, backend=backend, endpoint=endpoint)
    return await in_a_thread(
        lambda listener: _computed(settings, documents, task, options, with_input, listener), progress
    )


@explained
def search(
    corpus: str,
    text: str,
    *,
    top: int = 10,
    job: int | None = None,
    exact: bool = False,
    passages: bool = True,
    prompt: str | None = None,
    model_prompt: str | None = None,
    progress: bool = False,
    device: str | None = None,
    backend: str | None = None,
    store: Folder | None = None,
) -> list[Hit]:
    """Return the documents of a corpus that are nearest to a text, as `Mill.search` does. Raises Error."""
    with connect(device=device, backend=backend, store=store) as mill:
        return mill.search(
            corpus,
            text,
            top=top,
            job=job,
            exact=exact,
            passages=passages,
            prompt=prompt,
            model_prompt=model_prompt,
            progress=progress,
        )


@explained
def connect(
    database_url: str | None = None,
    redis_url: str | None = None,
    *,
    device: str | None = None,
    backend: str | None = None,
    endpoint: str | None = None,
    store: Folder | None = None,
) -> Mill:
    """Connect to a fleet: its database, and its queue.

    The default URLs are those of the settings (DOCMILL_DATABASE_URL, DOCMILL_REDIS_URL). Without these it opens the
    embedded store on this machine; `store` is its folder. `device`, `backend` and `endpoint` are for work on this
    machine: the texts of searches, and all tasks if there is no queue. Raises Error.
    """
    options = {"device": device, "backend": backend, "endpoint": endpoint}
    return Mill(_settings(database_url, redis_url, store=store, **options))


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


def _refuse(where: str, reason: str) -> NoReturn:
    raise Error(f"{where}: {reason}")


class Mill:
    """A store and its queue. `close` closes it, and so does the end of a `with` block.

    In a `with` block, the runs on this machine share a device process, which keeps their models until the end of the
    block. `pipelines` has the store's pipelines. `database` is the store itself, for features.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.database = connect_store(settings)  # its jobs may outlive the Mill, so nothing but `close` closes it
        self.pipelines = Pipelines(settings, self.database)
        self._kept: KeptWorker | None = None

    def __repr__(self) -> str:
        return f"Mill({self._settings})"

    def __enter__(self) -> Self:
        self._kept = KeptWorker()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the device process and all connections. The Mill, its jobs and pipelines raise Error from then on."""
        if self._kept is not None:
            with one_run_at_a_time:
                self._kept.close()
        self.database.close()

    @explained
    def run(
        self,
        documents: Documents,
        task: Task,
        *,
        endpoint: str | None = None,
        with_input: bool = False,
        progress: bool = True,
        **options: Unpack[Options],
    ) -> pyarrow.Table:
        """Run a task over documents, and return an Arrow table with a row for each, in their order.

        The fleet's workers compute. Without a queue (`redis_url`), this machine does. Documents and options are
        those of `docmill.run`; `endpoint` is for this machine, since workers have their own. Raises Error.
        """
        return self._run(documents, task, options, endpoint, with_input, listen(progress))

    async def run_async(
        self,
        documents: Documents,
        task: Task,
        *,
        endpoint: str | None = None,
        with_input: bool = False,
        progress: bool = False,
        **options: Unpack[Options],
    ) -> pyarrow.Table:
        """Run a task as `run` does, without blocking the event loop.

        If this coroutine is cancelled, a run on this machine ends as by Ctrl-C, and the same call continues it. A
        fleet's workers continue the job. Raises Error.
        """
        return await in_a_thread(
            lambda listener: self._run(documents, task, options, endpoint, with_input, listener), progress
        )

    @explained
    def enqueue(
        self,
        documents: Documents,
        task: Task,
        *,
        idempotency_key: str | None = None,
        progress: bool = True,
        **options: Unpack[Options],
    ) -> Job:
        """Store documents as a job for the workers, and return it. Documents and options are those of `docmill.run`.

        It returns once the documents are stored. The same call again continues an unfinished job. The same
        `idempotency_key` again returns the same job, also one that has ended; other arguments are refused. Raises
        Error.
        """
        if "endpoint" in options:
            raise Error(_OF_WORKERS)
        return self._enqueue(ReadOnce(documents), task, options, listen(progress), idempotency_key)

    @explained
    def job(self, job_id: int) -> Job:
        """Return the job of this number. Raises Error if there is none."""
        job = Job(self._settings, self.database, require_whole_number("job_id", job_id))
        job.status()
        return job

    @explained
    def jobs(self, limit: int = 20) -> list[JobStatus]:
        """Return the status of the latest jobs, newest first. Raises Error."""
        return list_statuses(self.database, require_whole_number("limit", limit))

    @explained
    def search(
        self,
        corpus: str,
        text: str,
        *,
        top: int = 10,
        job: int | None = None,
        exact: bool = False,
        passages: bool = True,
        prompt: str | None = None,
        model_prompt: str | None = None,
        progress: bool = False,
    ) -> list[Hit]:
        """Return the documents of a corpus that are nearest to a text, the nearest first.

        The corpus is named as in `run`, or by the path of its source; an `embed` job must have run over it. This
        machine embeds the text. The options are those of `docmill search`. Raises Error.
        """
        if prompt is not None and model_prompt is not None:
            raise Error("model_prompt and prompt do not go together: give one of them")
        prompts = {"prompt": prompt, "model_prompt": model_prompt}
        require_texts(corpus=corpus, text=text, **{name: said for name, said in prompts.items() if said is not None})
        if not text.strip():
            raise Error("the text of a search is empty")
        top = require_whole_number("top", top, MOST_HITS)
        job = None if job is None else require_whole_number("job", job)
        options = SearchOptions(top, job, exact, passages, prompt, model_prompt)
        listener = listen(progress)
        with open_search(self._settings, self.database, corpus, options, _refuse, listener) as opened:
            [(_, hits)] = opened.answers([query_record(text, "the text")])
        return [Hit(hit.id, hit.score, hit.text, hit.matched, hit.meta) for hit in hits]

    def _run(
        self,
        documents: Documents,
        task: str,
        options: Mapping[str, Any],
        endpoint: str | None,
        with_input: bool,
        listener: Listener,
    ) -> pyarrow.Table:
        if self._settings.redis_url is None:
            settings = self._asking(endpoint)
            return _computed(settings, documents, task, options, with_input, listener, self.database, self._kept)
        if endpoint is not None:
            raise Error(_OF_WORKERS)
        require_arrow()
        reading = ReadOnce(documents)
        status = self._enqueue(reading, task, options, listener).follow(listener)
        return _table(self.database, status, reading, with_input)

    def _enqueue(
        self, reading: ReadOnce, task: str, options: Mapping[str, Any], listener: Listener, key: str | None = None
    ) -> Job:
        source = reading.name if key is None else reading.digested
        request = request_of(self._settings, source, task, options, key)
        opened = partial(reading.open, has_corpus=request.corpus is not None)
        done = submit(self._settings, self.database, request, listener, opened)
        return Job(self._settings, self.database, done.id)

    def _asking(self, endpoint: str | None) -> Settings:
        """Return the settings with the server at a URL, and its key."""
        if endpoint is None:
            return self._settings
        settings = load_settings(endpoint=endpoint)
        server = {"endpoint": settings.endpoint, "openai_api_key": settings.openai_api_key}
        return self._settings.model_copy(update=server)


def _settings(
    database_url: str | None = None,
    redis_url: str | None = None,
    *,
    store: Folder | None = None,
    **options: str | None,
) -> Settings:
    if store is None:
        return load_settings(database_url=database_url, redis_url=redis_url, **options)
    if database_url is not None or redis_url is not None:
        raise Error("store is the folder of an embedded store; leave it out with the URLs of a fleet")
    if not os.fspath(store):
        raise Error("store is empty; name a folder, or leave it out to have the store of the command line")
    settings = load_settings(home=os.fspath(store), **options)
    return settings.model_copy(update={"database_url": None, "redis_url": None})


def _computed(
    settings: Settings,
    documents: Documents,
    task: str,
    options: Mapping[str, Any],
    with_input: bool,
    listener: Listener,
    store: Database | None = None,
    kept: KeptWorker | None = None,
) -> pyarrow.Table:
    """Compute on this machine, and return the table."""
    require_arrow()
    reading = ReadOnce(documents, one_run_at_a_time.reading)
    request = request_of(settings, reading.name, task, options)
    devices = devices_for(settings.device, request.model, *filter(None, [request.escalate]))
    opened = partial(reading.open, has_corpus=request.corpus is not None)
    with (
        one_run_at_a_time,
        run_request(settings, request, devices, listener, opened=opened, store=store, kept=kept) as (
            database,
            status,
        ),
    ):
        listener.say(summary(status))
        return _table(database, status, reading, with_input)


def _table(database: Database, status: JobStatus, reading: ReadOnce, with_input: bool) -> pyarrow.Table:
    """Return the table of a job that has come to its end. Raises Error for one that has not."""
    if status.state != "done":
        raise Error(f"job {status.id} is {status.waiting_for}" if status.blocked else summary(status))
    return make_table_by_row(database, status.id, reading.read, with_input=with_input)
