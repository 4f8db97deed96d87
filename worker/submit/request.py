"""Check and prepare a request before its source is read: for the command line, pipelines and orders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from docmill.storage.core.normalize import normalize_json
from docmill.storage.core.specs import Spec
from docmill.storage.readers import Source, SourceOptions, documents, open_source, remote, streams
from docmill.storage.readers.memory import NAME
from docmill.storage.readers.sources import path_of
from docmill.storage.steps.budgets import Account
from docmill.storage.steps.conditions import find_filter
from docmill.storage.steps.jobs import IdempotencyKey
from docmill.storage.steps.steps import EscalationRequest, StepRequest
from docmill.tasks import kinds
from docmill.tasks.errors import BadOption
from docmill.tasks.kinds import KindOptions
from docmill.tasks.kinds.generate import MESSAGES_FLAG
from docmill.tasks.kinds.options import flag
from docmill.tasks.models import families
from docmill.tasks.specs import pinning, plan
from docmill.tasks.specs.plan import build_spec
from docmill.worker.errors import WorkerError
from docmill.worker.prices import limit_cost
from docmill.worker.settings import Settings, read_variable
from docmill.worker.submit.options import (
    DOCUMENT,
    Escalation,
    JobOptions,
    ReadingOptions,
    Request,
    UnpinnedStep,
    Work,
    request_escalation,
)
from docmill.worker.submit.rehearsal import require_possible

Opened = Callable[[SourceOptions], Source]

BAD_NAME = "A corpus has a name of at most 2,000 bytes of UTF-8; give it one with --corpus."
MAX_NAME_BYTES = 2_000  # PostgreSQL's limit for one entry of an index is 2,704 bytes


@dataclass(frozen=True)
class Prepared:
    """A job whose models were found, whose options fit them and whose source can be read."""

    reading: ReadingOptions
    job: JobOptions
    steps: tuple[StepRequest, ...]
    source: Source
    corpus: str
    key: IdempotencyKey | None = None
    request_id: str | None = None
    account: Account = field(default_factory=Account)

    @property
    def spec(self) -> Spec:
        """Return the spec of the first step."""
        return self.steps[0].spec

    @property
    def specs(self) -> list[Spec]:
        """Return the specs that compute the steps and their escalations."""
        return [spec for step in self.steps for spec in step.specs]


def prepare(
    settings: Settings,
    request: Request,
    devices: Sequence[str] = (),
    opened: Opened | None = None,
    on_spec: Callable[[Spec], None] = lambda _: None,
) -> Prepared:
    """Check everything that can be checked before anything is stored.

    ``devices`` are this machine's devices that will compute it, if any. ``opened`` opens the source in place of
    its name. ``on_spec`` gets the spec before the model's files are looked at, which may take seconds.

    Raises SourceError for the source, ModelError for the model, BadOption for the options or a missing model,
    StorageError for --leave-out, and WorkerError.
    """
    if request.prune and request.limit is not None:
        raise BadOption("--prune and --limit do not go together: records after the limit have not vanished.")
    for option, value in (("--prune-max", request.prune_max), ("--prune-rejected", request.prune_rejected)):
        if value is not None and not request.prune:
            raise BadOption(f"{option} says how --prune works: give --prune too.")
    if request.leave_out is not None:
        find_filter(request.leave_out).require()
    options = source_options(request, [request.options])
    source = open_source(request.source, options) if opened is None else opened(options)
    unpinned = UnpinnedStep(
        name=request.task,
        task=request.task,
        input=DOCUMENT,
        model=request.model,
        revision=request.revision,
        options=request.options,
        escalation=request.escalation,
        leaves_out=request.leave_out,
    )
    step = pin_step(settings, unpinned, on_spec)
    require_possible(settings, step.specs, devices)
    corpus = check_corpus_name(request.corpus or _corpus_name(source, request.limit))
    account = limit_cost(settings, request.max_cost, step.specs)
    return Prepared(request, request, (step,), source, corpus, key_of(request), request.request_id, account)


def source_options(read: ReadingOptions, steps: Iterable[KindOptions]) -> SourceOptions:
    """Return the options of reading a source for steps with these options.

    Raises BadOption for a bad template, and SourceUnsupported for an unknown encoding or language of scanned pages.
    """
    templates = [template for options in steps for template in options.templates]
    for option, template in templates:
        for name, what in ((read.text_field, "text: write {text}"), (read.id_field, "id, which is no metadata")):
            # The text may be the messages.
            if name in template.fields and (option, name) != (MESSAGES_FLAG, read.text_field):
                raise BadOption(f"{option}: {{meta.{name}}} is the document's {what}.")
    expected = tuple(dict.fromkeys(name for _, template in templates for name in template.expected))
    encoding = None if read.encoding is None else streams.find_encoding(read.encoding)
    tessdata = read_variable(documents.TESSDATA_VARIABLE)
    languages = None if read.ocr is None else documents.find_languages(read.ocr, tessdata)
    return SourceOptions(
        read.text_field,
        read.id_field,
        expected,
        read.limit,
        encoding=encoding,
        sheet=read.sheet,
        header_row=read.header_row,
        ocr=languages,
    )


def spec_of(settings: Settings, task: str, model: str | None, revision: str | None, options: KindOptions) -> Spec:
    """Pin the model of a task, check the options against it, and return the spec. Raises ModelError, BadOption."""
    name = model or kinds.kind(task).model_for(options)
    if name is None:
        raise BadOption(
            f"{task} has no model of its own: give one with --model. It takes a hub id, a folder, or a name from "
            "`docmill models list`."
        )
    by_language = plan.parse_models(name)
    if by_language is None:
        pinned, config = _pin(settings, name, revision, options.adapter)
        pinned = pinning.with_tokenizer(
            pinned,
            options.to_params().get("tokenizer"),
            settings.model_folders,
        )
        pinning.require(task, pinned, settings.model_folders, options=options.to_params(), config=config)
        wanted = kinds.kind(task)
        prompted = wanted.pools(families.family(config)) or "prompt_name" in wanted.options.model_fields
        stated = pinning.read_prompts(pinned, settings.model_folders) if prompted else None
        return build_spec(task, pinned, options, config, stated)
    if revision is not None:
        raise BadOption("--revision is of one model; with several, give the revision of each as its own folder.")
    parts = {language: _pin(settings, model, None) for language, model in by_language.items()}
    return plan.build_spec_per_language(task, parts, options)


def pin_step(settings: Settings, step: UnpinnedStep, on_spec: Callable[[Spec], None] = lambda _: None) -> StepRequest:
    """Pin the models of a step and return its request. ``on_spec`` gets the spec before the escalation is pinned.

    Raises as `spec_of`, and BadOption if the specs of the step and of its escalation do not go together.
    """
    spec = spec_of(settings, step.task, step.model, step.revision, step.options)
    on_spec(spec)
    again = None if step.escalation is None else _escalate(settings, spec, step, step.escalation)
    input_ = None if step.input == DOCUMENT else step.input
    return StepRequest(step.name, spec, input_, step.flagged, again, step.leaves_out)


def _escalate(settings: Settings, first: Spec, step: UnpinnedStep, escalation: Escalation) -> EscalationRequest:
    task, options = step.task, step.options
    model, revision = escalation.model, escalation.revision
    if model is None:
        model, revision = step.model, revision or step.revision
    family = None
    if escalation.model is not None and plan.parse_models(escalation.model) is None:
        family = families.family(_pin(settings, escalation.model, revision)[1])
    kinds.require_options(task, escalation.options, "--escalate-")
    try:
        second = spec_of(settings, task, model, revision, escalation.options_from(options, family))
    except BadOption as error:
        raise BadOption(f"--escalate: {error}") from error
    return request_escalation(first, second, escalation.doubt)


def _pin(
    settings: Settings, model: str, revision: str | None, adapter: str | None = None
) -> tuple[pinning.Pinned, Mapping[str, Any]]:
    """Return a model's exact weights, those of an adapter, and its config.json with the adapter's head."""
    return pinning.pin_with_adapter(model, adapter, settings.model_folders, revision=revision)


def _corpus_name(source: Source, limit: int | None) -> str:
    """Return the default name of a corpus: the source's name. Each standard input and each sample has its own."""
    name = f"stdin {datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}" if source.name == "-" else source.name
    return name if limit is None else f"{name} (first {limit})"


def check_corpus_name(corpus: str) -> str:
    """Return the name, if a corpus can have it. Raises WorkerError."""
    try:
        if len(corpus.encode()) > MAX_NAME_BYTES or "\0" in corpus:
            raise WorkerError(BAD_NAME)
    except UnicodeEncodeError as error:
        raise WorkerError(BAD_NAME) from error
    return corpus


def key_of(request: Request) -> IdempotencyKey | None:
    """Return the key of a request, with the arguments that were given; None for a request without a key."""
    if request.idempotency_key is None:
        return None
    work = request.model_dump(mode="json", include=set(Work.model_fields) - {"source", "task"}, exclude_defaults=True)
    named = {flag(name, Work.model_fields[name]): value for name, value in work.items()}
    options = type(request.options).model_fields
    of_kind = {flag(name, options[name]): value for name, value in request.options.to_params().items()}
    precision = {} if request.options.dtype == "auto" else {"--dtype": request.options.dtype}
    arguments = {"the source": _source(request.source), "the task": request.task} | named | of_kind | precision
    return IdempotencyKey(request.idempotency_key, normalize_json(arguments)[0])


def _source(source: str) -> str:
    """Return a source as it is compared: a path from the root, a URL without secrets."""
    if source.startswith(NAME) or (path := path_of(source)) is None:
        return remote.mask_secrets(source)
    return remote.mask_secrets(str(path.absolute()))
