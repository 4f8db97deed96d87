"""A whole run on this machine: device processes, store, checks, queue and job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING

from docmill.worker.cli.context import open_broker, open_store
from docmill.worker.cli.migrating import say_replaced
from docmill.worker.cli.requests import prepare_request

if TYPE_CHECKING:
    from docmill.storage.core.database import Database
    from docmill.storage.results.status import JobStatus
    from docmill.worker.settings import Settings
    from docmill.worker.submit.options import Request
    from docmill.worker.submit.request import Opened

OpenStore = Callable[["Settings"], AbstractContextManager["Database"]]


@contextmanager
def computed(
    settings: Settings,
    request: Request,
    devices: Sequence[str],
    *,
    opened: Opened | None = None,
    store: OpenStore = open_store,
    log_level: str | None = None,
) -> Iterator[tuple[Database, JobStatus]]:
    """Compute a request on this machine. Yield the open store and the job's final status.

    ``opened`` opens the source in place of its name. With a ``log_level`` docmill's log goes to stderr.
    Raises what `worker.cli.local.run_here` and `worker.cli.requests.prepare_request` do.
    """
    from docmill.worker.cli.terminal import lines_above_the_bar
    from docmill.worker.process.device_config import Expected
    from docmill.worker.process.device_start import StartedDevices

    with ExitStack() as until_shown:
        # The processes import their libraries while this one imports its own, and reads.
        with lines_above_the_bar(log_level, settings.log_format), StartedDevices(len(devices)) as started:
            # They get the spec before the store is opened: opening it takes as long as importing some libraries.
            prepared = prepare_request(
                settings,
                request,
                devices,
                opened,
                on_spec=lambda spec: started.expect(Expected.of(spec, devices[0], settings)),
            )
            from docmill.worker.cli.local import run_here

            database = until_shown.enter_context(store(settings))
            say_replaced(database, prepared)
            with open_broker(settings) as broker:
                status = run_here(settings, database, broker, devices, prepared, started)
        yield database, status
