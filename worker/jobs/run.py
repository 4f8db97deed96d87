"""Run a request on this machine: device processes, store, checks, queue and job."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from docmill.worker.process.device_start import StartedDevices

if TYPE_CHECKING:
    from docmill.storage.core.database import Database
    from docmill.storage.results.status import JobStatus
    from docmill.storage.steps.budgets import Account
    from docmill.worker.jobs import Listener
    from docmill.worker.process.supervisor import Supervisor
    from docmill.worker.queue.broker import Broker
    from docmill.worker.settings import Settings
    from docmill.worker.submit.options import Request
    from docmill.worker.submit.request import Opened


class KeptWorker:
    """An embedded queue, and a supervisor with its device processes, that outlive the runs of one process.

    They end after a run that failed or was interrupted, and with `close`. A process that was forked starts its own.
    """

    def __init__(self) -> None:
        self._until_closed = ExitStack()
        self._serves: tuple[Settings, Sequence[str], int] | None = None
        self._supervisor: Supervisor | None = None

    def is_running(self, settings: Settings, devices: Sequence[str]) -> bool:
        """Return True if device processes of these settings wait for a job."""
        is_ours = self._serves == (settings, devices, os.getpid())
        return is_ours and self._supervisor is not None and self._supervisor.is_running

    def open(
        self, settings: Settings, database: Database, devices: Sequence[str], started: StartedDevices
    ) -> tuple[Broker, Supervisor]:
        """Return the queue and the supervisor for a run. A worker of other settings ends."""
        from docmill.worker.jobs.local_run import make_supervisor
        from docmill.worker.queue.broker import Broker
        from docmill.worker.stores import EmbeddedRedis

        if self._supervisor is None or not self.is_running(settings, devices):
            self.close()
            self._serves = (settings, devices, os.getpid())
            url = self._until_closed.enter_context(EmbeddedRedis()).url
            self._broker = self._until_closed.enter_context(closing(Broker(url)))
            self._supervisor = make_supervisor(settings, database, self._broker, devices, started=started)
        return self._broker, self._supervisor

    def close(self) -> None:
        """End the processes. In a fork, leave them to the process that started them."""
        if self._serves is not None and self._serves[-1] == os.getpid():
            if self._supervisor is not None and self._supervisor.is_running:
                from docmill.worker.jobs.local_run import drain

                drain(self._supervisor)
            self._until_closed.close()
        self._supervisor, self._serves, self._until_closed = None, None, ExitStack()


@contextmanager
def run_request(
    settings: Settings,
    request: Request,
    devices: Sequence[str],
    listener: Listener,
    *,
    opened: Opened | None = None,
    store: Database | None = None,
    kept: KeptWorker | None = None,
    account: Account | None = None,
) -> Iterator[tuple[Database, JobStatus]]:
    """Compute a request on this machine. Yield the open store and the job's final status.

    ``opened`` opens the source in place of its name. ``store`` takes the place of the settings' own. ``kept``
    keeps the processes for the next run. ``account`` takes the place of the request's own.

    Raises the errors of `worker.jobs.local_run.run_here` and `worker.submit.request.prepare`.
    """
    with ExitStack() as until_shown:
        # The processes import their libraries while this one imports its own, and reads.
        n_missing = 0 if kept is not None and kept.is_running(settings, devices) else len(devices)
        with listener.computing(), StartedDevices(n_missing) as started:
            from docmill.worker.jobs.submission import prepare_request, say_replaced

            sent = settings.model_dump(mode="json")
            # They get the spec before the store is opened: opening it takes as long as importing some libraries.
            prepared = prepare_request(
                settings,
                request,
                listener,
                devices,
                opened,
                account,
                on_spec=lambda spec: started.expect(spec.to_json().decode(), devices[0], sent),
            )
            from docmill.worker.jobs.local_run import run_here
            from docmill.worker.stores import open_broker, open_store

            database = store or until_shown.enter_context(open_store(settings))
            say_replaced(database, prepared, listener)
            if kept is None:
                with open_broker(settings) as broker:
                    status = run_here(settings, database, broker, devices, prepared, listener, started)
            else:
                broker, supervisor = kept.open(settings, database, devices, started)
                status = run_here(settings, database, broker, devices, prepared, listener, kept=supervisor)
        yield database, status
