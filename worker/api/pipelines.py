"""Pipelines for the Python API."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

from docmill.storage.core.database import Database
from docmill.worker.api.errors import explained
from docmill.worker.api.job import Job
from docmill.worker.api.progress import listen
from docmill.worker.api.turns import one_run_at_a_time
from docmill.worker.engines.devices import choose_devices
from docmill.worker.formatting import summary
from docmill.worker.jobs.pipelines import list_pipelines, list_runs, run_file, store_file
from docmill.worker.prices import read_prices
from docmill.worker.settings import Settings

Rows: TypeAlias = list[dict[str, Any]]


class Pipelines:
    """The pipelines of a store: files with several steps over a corpus, run by hand or on a schedule."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database

    @explained
    def list(self) -> Rows:
        """Return the stored pipelines with their last and next runs, as `docmill pipeline list --json` does."""
        return list_pipelines(self._database, read_prices(self._settings))

    @explained
    def add(self, file: str | os.PathLike[str]) -> str:
        """Store the pipeline in a file, or a new version of it, and return its name. Raises Error."""
        return store_file(self._settings, self._database, Path(file), listen(True)).name

    @explained
    def run(self, file: str | os.PathLike[str], *, progress: bool = True) -> Job:
        """Run the pipeline in a file on this machine, write its output file, and return its job. Raises Error."""
        devices, prices = choose_devices(self._settings.device), read_prices(self._settings)
        listener = listen(progress)
        with one_run_at_a_time:
            _, status, _ = run_file(self._settings, self._database, Path(file), devices, listener)
        listener.say(summary(status, prices.cost_of(status)))
        return Job(self._settings, self._database, status.id)

    @explained
    def history(self, name: str, limit: int = 20) -> Rows:
        """Return the runs of a stored pipeline, newest first, as `docmill pipeline history --json` does."""
        return list_runs(self._database, name, limit, read_prices(self._settings))
