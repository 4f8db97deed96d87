"""`docmill run`: an ingest, a worker of our own and a watcher, in one command. The same paths as the fleet's."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence

from storage import jobs
from storage.database import Database
from storage.leases.waiting import Cause
from storage.status import JobStatus, read_status
from worker.broker import Broker
from worker.cli.follow import IngestBar, follow, say_ingested
from worker.cli.session import say
from worker.cli.words import printable
from worker.enqueue import Prepared, enqueue
from worker.errors import WorkerError
from worker.settings import Settings
from worker.supervisor import Supervisor

UPKEEP_S = 1.0
TOO_MANY_DEATHS = 3
MOST_SAID = 3  # other jobs


class Blocked(WorkerError):
    """The job cannot go on here."""


def run_here(
    settings: Settings, database: Database, broker: Broker, devices: Sequence[str], prepared: Prepared
) -> JobStatus:
    """Ingest, compute and return the job's final status. The worker starts with the first text that needs it.

    Raises Blocked when this machine cannot serve the job. What was interrupted is carried on by the next run.
    """
    local = settings.model_copy(
        update={
            "lanes": tuple(sorted({step.spec.kind for step in prepared.steps})),
            "upkeep_s": min(settings.upkeep_s, UPKEEP_S),
        }
    )
    supervisor = Supervisor(local, database, broker, devices, fires=False)
    started = threading.Event()

    def start_once() -> None:
        if not started.is_set():
            started.set()
            supervisor.start()

    def watch(status: JobStatus) -> None:
        if status.blocked:
            raise Blocked(f"job {status.id} is {status.waiting_for}")
        if status.waiting_cause is Cause.PAUSED:
            raise Blocked(f"job {status.id} is paused; let it go on with: docmill resume {status.id}")
        if supervisor.deaths >= TOO_MANY_DEATHS and not supervisor.ready:
            raise Blocked("the device process dies as it starts; what it printed above says why")

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's stop is a Ctrl-C
    try:
        with IngestBar(prepared.source, on_planned=start_once) as progress:
            done = enqueue(database, lambda: broker, prepared, progress)
        say_ingested(prepared.source, done)
        status = read_status(database, done.id)
        if not status.ended:
            _say_beside(database, done.id, local.lanes)
            start_once()
            status = follow(
                database, done.id, in_flight=lambda: supervisor.finished_in_flight, watch=watch, own_worker=True
            )
        return status
    except KeyboardInterrupt:
        if prepared.source.name == "-":
            say("Interrupted: what was read and computed until now is kept.")
        else:
            say("Interrupted: the batch under way is finished; the same command carries the job on.")
        raise
    finally:
        if started.is_set():
            _drain(supervisor)


def _say_beside(database: Database, job_id: int, lanes: Sequence[str]) -> None:
    """Say which other jobs this worker will compute too, since they take time that nobody would explain."""
    found = jobs.unfinished_beside(database, job_id, lanes, MOST_SAID + 1)
    for other, source in found[:MOST_SAID]:
        say(
            f"Job {other} ({printable(source)}) is unfinished and is computed as well; "
            f"`docmill pause {other}` or `cancel {other}` leaves it."
        )
    if len(found) > MOST_SAID:
        say("There are more of these: docmill jobs")


def _drain(supervisor: Supervisor) -> None:
    """Let the batches under way end; another Ctrl-C gives everything back at once."""
    try:
        supervisor.drain()
        supervisor.join()
    except KeyboardInterrupt:
        supervisor.drain(now=True)
        supervisor.join()
