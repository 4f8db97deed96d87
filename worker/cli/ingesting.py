"""Store a source as a job for the workers, with a bar and a summary on stderr."""

from __future__ import annotations

from docmill.storage.core.database import Database
from docmill.tasks import tracing
from docmill.worker import traces
from docmill.worker.cli.context import queue_of
from docmill.worker.cli.follow import IngestBar, say_ingested
from docmill.worker.cli.migrating import say_replaced
from docmill.worker.cli.printing import say
from docmill.worker.cli.requests import prepare_request
from docmill.worker.settings import Settings
from docmill.worker.submit.enqueue import Enqueued, enqueue, repeated
from docmill.worker.submit.options import Request
from docmill.worker.submit.repeats import key_of
from docmill.worker.submit.request import Opened


def ingested(settings: Settings, database: Database, request: Request, opened: Opened | None = None) -> Enqueued:
    """Check a request, store its source and offer it to the queue. ``opened`` opens the source in place of its name.

    A request whose idempotency key has a job already only says so. Raises what `worker.submit.enqueue.enqueue` and
    `worker.cli.requests.prepare_request` do.
    """
    if (known := repeated(database, key_of(request))) is not None:
        say_repeated(request, known)
        return known
    traces.start(settings)
    prepared = prepare_request(settings, request, opened=opened)
    say_replaced(database, prepared)
    try:
        with queue_of(settings) as broker, IngestBar(prepared.source) as progress:
            done = enqueue(database, lambda: broker, prepared, progress)
    finally:
        tracing.flush()
    if done.repeated:
        say_repeated(request, done)
        return done
    say_ingested(prepared.source, done)
    if done.deferred:
        say(f"Dispatch deferred: {done.deferred}")
    return done


def say_repeated(request: Request, job: Enqueued) -> None:
    """Say that the key of a request has a job already, and what became of it."""
    say(f"Job {job.id} ({job.state}) has the key {request.idempotency_key} already. Nothing was read.")
