"""The tasks of the queue: run a shard, take a pipeline's run further, read the source of another program.

Each is a thin wrapper: it reads its message, and calls a plain function with what the process has. Celery checks
arguments by their names, and an order has one that is named `task`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from celery import Celery, Task, shared_task
from celery.exceptions import Reject

from docmill.storage.core.database import Database
from docmill.storage.errors import LeaseLost
from docmill.tasks import tracing
from docmill.worker.process.shard import Process
from docmill.worker.queue.messages import ENQUEUE_TASK, RUN_TASK, SHARD_TASK, Plain, parse_run, parse_shard
from docmill.worker.settings import Settings

LEAST_DELAY_S, LONGEST_DELAY_S = 2.0, 60.0  # until an order is tried again, while the store or the hub is away


@dataclass(frozen=True)
class DeviceContext:
    """The things that a device process has for its tasks, as `app.context`."""

    settings: Settings
    process: Process
    database: Database  # for statements that may last


@shared_task(name=SHARD_TASK, bind=True)  # type: ignore[untyped-decorator]
def run_shard(this: Task, /, **arguments: Plain) -> None:
    """Compute a shard, if its hint is still valid."""
    process = this.app.context.process
    process.run_shard(parse_shard(arguments), tracing.valid(this.request.get("traceparent")))


@shared_task(name=RUN_TASK, bind=True)  # type: ignore[untyped-decorator]
def run_pipeline(this: Task, /, **arguments: Plain) -> None:
    """Take a pipeline's run further."""
    from docmill.worker.pipelines.running import advance  # with its libraries, which `docmill run` does not need

    here, process = this.app.context, this.app.context.process
    stop = process.draining
    advance(here.settings, here.database, process.broker, parse_run(arguments), owner=process.owner, stop=stop)


@shared_task(  # type: ignore[untyped-decorator]
    name=ENQUEUE_TASK, bind=True, acks_late=True, ignore_result=False, max_retries=None, throws=(ValueError,)
)
def enqueue(this: Task, source: Plain = None, /, **arguments: Plain) -> int:
    """Read a source into a job, and return the job's number."""
    from docmill.worker.orders import AWAY, carry_out  # with the libraries of readers

    here, process = this.app.context, this.app.context.process
    order = arguments if source is None else {**arguments, "source": source}
    try:
        return carry_out(here.settings, here.database, process.broker, this.request.id, order, process.draining)
    except LeaseLost as error:
        raise Reject(error, requeue=True) from error
    except AWAY as error:
        _try_later(this, error)


def _try_later(this: Task, error: Exception) -> NoReturn:
    """Send an order again, to be carried out later, or put it back if Redis takes no new message."""
    try:
        raise this.retry(exc=error, countdown=min(LONGEST_DELAY_S, LEAST_DELAY_S * 2 ** min(this.request.retries, 9)))
    except Reject as unsent:
        raise Reject(error, requeue=True) from unsent


def bind(app: Celery, context: DeviceContext) -> None:
    """Let the tasks of an app work with these things."""
    app.set_default()  # Celery's threads would make another app, without settings
    app.context = context
    # Celery calls some tasks that follow an error in place; those of its own are none of an order's.
    app.finalize()
    for name in [name for name in app.tasks if name.startswith("celery.")]:
        del app.tasks[name]
