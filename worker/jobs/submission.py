"""Check a request, and store its source as a job for the workers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Spec
from docmill.storage.readers.sources import path_of
from docmill.storage.steps.budgets import Account
from docmill.storage.steps.replacements import substitute_specs
from docmill.tasks import kinds, tracing
from docmill.tasks.models import weightless
from docmill.tasks.specs.pinning import SHIPPED_FOLDER
from docmill.worker.jobs import Listener
from docmill.worker.jobs.follow import ingest_bar, say_ingested
from docmill.worker.settings import Settings
from docmill.worker.stores import queue_of
from docmill.worker.submit.enqueue import Enqueued, enqueue, find_repeated
from docmill.worker.submit.options import Request
from docmill.worker.submit.request import Opened, Prepared, key_of, prepare


def submit(
    settings: Settings,
    database: Database,
    request: Request,
    listener: Listener,
    opened: Opened | None = None,
    account: Account | None = None,
) -> Enqueued:
    """Check a request, store its source and offer it to the queue. ``opened`` opens the source in place of its name.

    ``account`` takes the place of the request's own.

    If a job already has the request's idempotency key, say so and read nothing. Raises the errors of
    `worker.submit.enqueue.enqueue` and `worker.submit.request.prepare`.
    """
    if (known := find_repeated(database, key_of(request))) is not None:
        _say_repeated(listener, request, known)
        return known
    tracing.start(settings.traces_endpoint)
    prepared = prepare_request(settings, request, listener, opened=opened, account=account)
    say_replaced(database, prepared, listener)
    try:
        with queue_of(settings) as broker, ingest_bar(listener, prepared.source) as progress:
            done = enqueue(database, broker, prepared, progress)
    finally:
        tracing.flush()
    if done.repeated:
        _say_repeated(listener, request, done)
        return done
    say_ingested(listener, prepared.source, done)
    if done.deferred:
        listener.say(f"Dispatch deferred: {done.deferred}")
    return done


def _say_repeated(listener: Listener, request: Request, job: Enqueued) -> None:
    listener.say(f"Job {job.id} ({job.state}) has the key {request.idempotency_key} already. Nothing was read.")


def prepare_request(
    settings: Settings,
    request: Request,
    listener: Listener,
    devices: Sequence[str] = (),
    opened: Opened | None = None,
    account: Account | None = None,
    on_spec: Callable[[Spec], None] = lambda _: None,
) -> Prepared:
    """Check a request, and say which default model it takes. ``account`` takes the place of the request's own.

    Raises the errors of `worker.submit.request.prepare`.
    """
    if request.source == "-" and sys.stdin.isatty():
        listener.say("Reading JSON lines from the keyboard; Ctrl-D ends them.")
    prepared = prepare(settings, request, devices, opened, on_spec)
    if request.model is None:
        listener.say(describe_default_model(request.task, request.source, request.options))
    return prepared if account is None else replace(prepared, account=account)


def say_replaced(database: Database, prepared: Prepared, listener: Listener) -> None:
    """Say which model answers searches if a job computes the model that its corpus was migrated from."""
    for before, after in zip(
        prepared.steps, substitute_specs(database, prepared.corpus, prepared.steps), strict=True
    ):
        if before.spec != after.spec:
            old, new = before.spec.model, after.spec.model
            listener.say(
                f"The corpus {prepared.corpus} was migrated from {old} to {new}, which answers searches. This job "
                f"computes {old}; `docmill migrate run {prepared.corpus} --from {old} --to {new}` computes new "
                "documents."
            )


def describe_default_model(task: str, source: str, options: kinds.KindOptions) -> str:
    """Return a remark on a task's default model, with two models of the hub that fit other texts."""
    model = kinds.kind(task).model_for(options)
    if model == weightless.NO_MODEL:
        return f"{task} needs no model."
    if model == weightless.PATTERNS:
        return (
            f"Using {model}, which finds numbers and addresses by their form. To find names, too, add a model, such "
            "as --model dslim/bert-base-NER."
        )
    fitting = kinds.kind(task).other_models(options)
    if not fitting or _is_example(source):
        return f"Using the demo model {model}. Choose another with --model."
    return (
        f"Using the demo model {model}, which knows little but descriptions of software. For other texts: "
        f"--model {fitting[0]} or --model {fitting[1]}."
    )


def _is_example(source: str) -> bool:
    """Return True if the source is one of the examples, which the demo models are made for."""
    path = path_of(source)
    return path is not None and path.resolve().is_relative_to(Path(SHIPPED_FOLDER).parent)
