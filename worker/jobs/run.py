"""Run a request on this machine: device processes, store, checks, queue and job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING

from docmill.worker.process.device_start import Expected, StartedDevices

if TYPE_CHECKING:
    from docmill.storage.core.database import Database
    from docmill.storage.results.status import JobStatus
    from docmill.worker.jobs import Listener
    from docmill.worker.settings import Settings
    from docmill.worker.submit.options import Request
    from docmill.worker.submit.request import Opened

OpenStore = Callable[["Settings"], AbstractContextManager["Database"]]


@contextmanager
def run_request(
    settings: Settings,
    request: Request,
    devices: Sequence[str],
    listener: Listener,
    *,
    opened: Opened | None = None,
    store: OpenStore | None = None,
) -> Iterator[tuple[Database, JobStatus]]:
    """Compute a request on this machine. Yield the open store and the job's final status.

    ``opened`` opens the source in place of its name, and ``store`` the store in place of the settings' own. Raises
    what `worker.jobs.local_run.run_here` and `worker.submit.request.prepare` do.
    """
    with ExitStack() as until_shown:
        # The processes import their libraries while this one imports its own, and reads.
        with listener.computing(), StartedDevices(len(devices)) as started:
            from docmill.worker.jobs.submission import prepare_request, say_replaced

            # They get the spec before the store is opened: opening it takes as long as importing some libraries.
            prepared = prepare_request(
                settings,
                request,
                listener,
                devices,
                opened,
                on_spec=lambda spec: started.expect(Expected.of(spec, devices[0], settings)),
            )
            from docmill.worker.jobs.local_run import run_here
            from docmill.worker.stores import open_broker, open_store

            database = until_shown.enter_context((store or open_store)(settings))
            say_replaced(database, prepared, listener)
            with open_broker(settings) as broker:
                status = run_here(settings, database, broker, devices, prepared, listener, started)
        yield database, status
