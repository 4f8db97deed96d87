"""Compute a job on this machine: read its source, supervise device processes, and watch it, as a fleet does."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Sequence

from docmill.storage.core.database import Database
from docmill.storage.deletion import retention
from docmill.storage.leases import dispatch
from docmill.storage.leases.diagnosis import UNBLOCKING, Cause
from docmill.storage.results.status import JobStatus, read_status
from docmill.tasks import tracing
from docmill.tasks.errors import ServerUnreachable
from docmill.worker.errors import JobBlocked, WorkerError
from docmill.worker.formatting import printable
from docmill.worker.jobs import Listener
from docmill.worker.jobs.follow import follow, ingest_bar, say_ingested
from docmill.worker.process.device_start import StartedDevices
from docmill.worker.process.supervisor import Supervisor
from docmill.worker.queue.broker import Broker
from docmill.worker.settings import LANES, Settings
from docmill.worker.submit.enqueue import enqueue
from docmill.worker.submit.request import Prepared

UPKEEP_S = 1.0
TOO_MANY_DEATHS = 3
MOST_SAID = 3  # other jobs


def run_here(
    settings: Settings,
    database: Database,
    broker: Broker,
    devices: Sequence[str],
    prepared: Prepared,
    listener: Listener,
    started: StartedDevices | None = None,
    on_opened: Callable[[int], None] = lambda _job_id: None,
    kept: Supervisor | None = None,
) -> JobStatus:
    """Ingest and compute a job, and return its final status. The next run continues a run that was interrupted.

    The supervisor starts with the first text that has to be computed, and uses the device processes that are
    ``started`` already. If no other worker lives, it computes this job only, and other jobs go on waiting.
    ``on_opened`` gets the job's number before the job has documents. ``kept`` is a supervisor
    that rests after a run that ended well.

    Raises JobBlocked if this machine cannot serve the job, ServerUnreachable if its model's server does not answer,
    and WorkerError.
    """
    lanes = tuple(sorted({step.spec.kind for step in prepared.steps}))
    tracing.start(settings.traces_endpoint)
    supervisor = kept or make_supervisor(settings, database, broker, devices, lanes, started)
    alone = not dispatch.live_workers(database) - supervisor.owners
    if alone:  # other jobs' shards wait for a worker
        dispatch.withdraw(database, lanes)
    begun = threading.Event()
    ended_well = False

    def start(job_id: int) -> None:
        if begun.is_set():
            return
        begun.set()
        supervisor.serve(job_id)

    def opened(job_id: int) -> None:
        dispatch.withdraw(database, lanes, job_id)  # the queue of an earlier run of the job may be gone
        on_opened(job_id)

    try:
        with ingest_bar(listener, prepared.source, start, opened) as progress:
            done = enqueue(database, broker, prepared, progress, offer_others=False)
        say_ingested(listener, prepared.source, done)
        if alone:
            _say_waiting(listener, database, done.id, lanes)
        status = read_status(database, done.id)  # a short job may have ended while it was read
        if status.ended:
            retention.sweep(database, settings.ages)  # else the worker's maintenance does it
        else:
            start(done.id)
            importlib.import_module("docmill.storage.results.results")  # for the end, while the device process starts
            status = follow(
                database,
                done.id,
                listener,
                in_flight=lambda: supervisor.finished_in_flight,
                watch=Watch(supervisor),
                wait=supervisor.wait_for_news,
            )
        ended_well = True
        return status
    except KeyboardInterrupt:
        if prepared.source.name == "-":
            listener.say("Stopping. The records and results so far are kept.")
        else:
            listener.say("Stopping. The current batch ends first; the same command continues the job.")
        raise
    finally:
        if begun.is_set() and ended_well and kept is not None:
            kept.rest()
        elif begun.is_set():
            drain(supervisor)
        tracing.flush()


def make_supervisor(
    settings: Settings,
    database: Database,
    broker: Broker,
    devices: Sequence[str],
    lanes: Sequence[str] = LANES,
    started: StartedDevices | None = None,
) -> Supervisor:
    """Return a supervisor for jobs on this machine, of tasks of these lanes."""
    local = settings.model_copy(update={"lanes": tuple(lanes), "upkeep_s": min(settings.upkeep_s, UPKEEP_S)})
    return Supervisor(local, database, broker, devices, fires=False, started=started)


class Watch:
    """A watcher of the job's status, which raises WorkerError if the job cannot go on here.

    Refusals of other workers do not count until this worker, once it is ready, has tried the job too.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._was_ready = False

    def __call__(self, status: JobStatus) -> None:
        if status.blocked and self._was_ready:
            refused = (status.waiting_for or "").removesuffix(UNBLOCKING).strip()
            reason = f"job {status.id} is {refused} The same command continues it"
            raise ServerUnreachable(reason) if self._supervisor.server_away else JobBlocked(reason)
        if status.waiting_cause is Cause.PAUSED:
            raise WorkerError(f"job {status.id} is paused; to continue it: docmill resume {status.id}")
        if status.waiting_cause is Cause.COST:
            again = "The same command with a higher --max-cost continues"
            raise WorkerError(f"job {status.id} is paused: {status.waiting_for}. {again}")
        if self._supervisor.deaths >= TOO_MANY_DEATHS and not self._supervisor.ready:
            raise WorkerError("the device process dies as it starts; its messages above say why")
        self._was_ready = self._supervisor.ready  # for a status that is read after it


def _say_waiting(listener: Listener, database: Database, job_id: int, lanes: Sequence[str]) -> None:
    """Name the unfinished jobs that this run does not compute, since their users may wait for them."""
    others = dispatch.unfinished_beside(database, job_id, lanes, MOST_SAID + 1)
    named = ", ".join(f"{other} ({printable(source)})" for other, source in others[:MOST_SAID])
    more = " and others" if len(others) > MOST_SAID else ""
    if others:
        advice = "`docmill worker` computes them, `docmill cancel` drops one."
        listener.say(f"Unfinished jobs wait for a worker: {named}{more}. {advice}")


def drain(supervisor: Supervisor) -> None:
    """Wait until the batches under way end. Another Ctrl-C gives all shards back at once."""
    try:
        supervisor.drain()
        supervisor.join()
    except KeyboardInterrupt:
        supervisor.drain(now=True)
        supervisor.join()
