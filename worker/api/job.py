"""Jobs of the Python API."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Reason
from docmill.storage.results import results as of_store
from docmill.storage.results.status import JobStatus, read_status
from docmill.storage.steps import jobs
from docmill.storage.steps.conditions import Flagged
from docmill.tasks.kinds.options import parsed, shown
from docmill.worker.api.documents import make_table_of_job, one_run_at_a_time, require_arrow
from docmill.worker.api.errors import Error, TimedOut, explained, explained_each, require_texts, require_whole_number
from docmill.worker.engines import choose_devices
from docmill.worker.formatting import counted, summary
from docmill.worker.jobs import Bar, Listener
from docmill.worker.jobs.follow import follow, resume_job
from docmill.worker.jobs.pipelines import list_pipelines, list_runs, run_file, store_file
from docmill.worker.jobs.results import describe_removed
from docmill.worker.prices import read_prices
from docmill.worker.settings import Settings
from docmill.worker.submit.options import JobOptions

if TYPE_CHECKING:
    import pandas
    import pyarrow

T = TypeVar("T")


class Job:
    """A job in the store. `id` is its number, as `docmill jobs` lists it."""

    def __init__(self, settings: Settings, database: Database, job_id: int) -> None:
        self.settings = settings
        self.database = database
        self.id = job_id

    def __repr__(self) -> str:
        return f"Job({self.id})"

    def _repr_html_(self) -> str:
        return self.status()._repr_html_()

    @explained
    def status(self) -> JobStatus:
        """Return the job's state and counts, with the names of `docmill status --json`."""
        return read_status(self.database, self.id)

    @explained
    def wait(self, timeout: float | None = None, *, progress: bool = True) -> JobStatus:
        """Wait for the end of the job, and return its final status.

        It also returns if every worker has refused the job for more than a minute; `blocked` is then true.
        `timeout` is in seconds. `progress` shows a bar on stderr. Raises TimedOut.
        """
        return self.follow(listen(progress), timeout)

    async def wait_async(self, timeout: float | None = None, *, progress: bool = False) -> JobStatus:
        """Wait as `wait` does, without blocking the event loop."""
        return await in_a_thread(lambda listener: self.follow(listener, timeout), progress)

    def follow(self, listener: Listener, timeout: float | None = None) -> JobStatus:
        """Wait as `wait` does, and tell a listener."""
        if timeout is not None and not (isinstance(timeout, int | float) and timeout == timeout):
            raise Error(f"timeout must be a number of seconds, not {shown(timeout)}")
        deadline = None if timeout is None else time.monotonic() + timeout
        prices = read_prices(self.settings)

        def watch(status: JobStatus) -> None:
            if deadline is not None and time.monotonic() >= deadline:
                reason = f"; {status.waiting_for}" if status.waiting_for else ""
                raise TimedOut(f"job {self.id} is not finished: {counted(status.pending, 'text')} to do{reason}")

        status = follow(self.database, self.id, listener, watch=watch)
        listener.say(summary(status, prices.cost_of(status)))
        return status

    @explained
    def results(
        self,
        *,
        step: str | None = None,
        flagged: bool | Collection[str] = False,
        unflagged: bool | Collection[str] = False,
        with_input: bool = False,
        partial: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Yield the results, in the order of the source, as dictionaries with the keys of `docmill results`.

        It reads them page by page. A vector is a float32 array. `flagged` and `unflagged` are True for all doubtful
        flags, or a condition such as "empty" or "confidence<0.4", or several. `partial` yields the results so far of
        a job that has not ended; without it, such a job raises Error.
        """
        rows = explained_each(
            of_store.results(
                self.database,
                self.id,
                step=step,
                with_input=with_input,
                flagged=self._condition(flagged, unflagged),
            )
        )
        self._require_results(step, partial)
        return rows

    @explained
    def to_arrow(self, *, step: str | None = None, with_input: bool = False, partial: bool = False) -> pyarrow.Table:
        """Return the results as an Arrow table, with the columns of Parquet files of results.

        `with_input` adds the texts as the column "input". Vectors are lists of fixed size, labels and spans lists of
        structs. Raises Error.
        """
        require_arrow()
        self._require_results(step, partial)
        return make_table_of_job(self.database, self.id, step, with_input=with_input)

    def to_pandas(
        self, *, step: str | None = None, with_input: bool = False, partial: bool = False
    ) -> pandas.DataFrame:
        """Return the results as a pandas frame. Raises Error."""
        return self.to_arrow(step=step, with_input=with_input, partial=partial).to_pandas()

    @explained
    def failures(self) -> Iterator[dict[str, Any]]:
        """Yield the documents and records without a result: {"id", "status", "class", "reason"}."""
        return explained_each(of_store.failures(self.database, self.id))

    @explained
    def retry(self, only: Literal["transient", "document", "model"] | None = None) -> int:
        """Make the workers try all failed texts again, or those of a class. Return their number. Raises Error."""
        if only is not None and only not in [*Reason]:
            raise Error(f"There is no class of failures {only!r}; there are {', '.join(Reason)}.")
        return jobs.retry(self.database, self.id, only)

    @explained
    def cancel(self) -> bool:
        """Stop the job; finished results stay. Return False if it had ended already."""
        return jobs.cancel(self.database, self.id)

    @explained
    def pause(self) -> bool:
        """Hold the job until `resume`; work under way is dropped. Return False if it had ended already."""
        return jobs.pause(self.database, self.id)

    @explained
    def resume(self, max_cost: float | None = None) -> bool:
        """Resume a paused job, with a higher `max_cost` if given. Return False if it had ended. Raises Error."""
        limit = parsed(JobOptions, {"max_cost": max_cost}).max_cost
        return resume_job(self.settings, self.database, self.id, limit)[0]

    @explained
    def priority(self, priority: int) -> bool:
        """Change the priority; a higher one goes first. Return False if the job had ended already. Raises Error."""
        wanted = parsed(JobOptions, {"priority": priority})
        return jobs.prioritize(self.database, self.id, wanted.priority)

    def _require_results(self, step: str | None, partial: bool) -> None:
        status = self.status()
        if not status.ended and not partial:
            raise Error(
                f"job {self.id} is not finished ({counted(status.pending, 'text')} to do): wait() waits for its end, "
                "and partial=True returns the results so far"
            )
        if (removed := describe_removed(self.database, status, step)) is not None:
            raise Error(removed)

    @staticmethod
    def _condition(flagged: bool | Collection[str], unflagged: bool | Collection[str]) -> Flagged | None:
        if any(not condition and condition is not False for condition in (flagged, unflagged)):
            raise Error("flagged or unflagged is empty: name a flag, or give True for any doubtful flag")
        if flagged and unflagged:
            raise Error("flagged and unflagged do not go together: give one of them")
        wanted = flagged or unflagged
        if not wanted:
            return None
        lacking = bool(unflagged)
        if wanted is True:
            return Flagged(lacking=lacking)
        conditions = wanted if isinstance(wanted, Collection) and not isinstance(wanted, str) else [wanted]
        for condition in conditions:
            require_texts(**{"unflagged" if lacking else "flagged": condition})
        return Flagged.parse(conditions, lacking=lacking)


def listen(progress: bool) -> Listener:
    """Return a listener that shows bars and sentences on stderr, or one that shows nothing."""
    if not progress:
        return Listener()
    from docmill.worker.terminal import Terminal

    return Terminal()


class _StoppableBar(Bar):
    def __init__(self, bar: Bar, stop: threading.Event) -> None:
        self._bar, self._stop = bar, stop

    def update(self, *args: Any, **kwargs: Any) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt
        self._bar.update(*args, **kwargs)

    def say(self, message: str) -> None:
        self._bar.say(message)


class _StoppableListener(Listener):
    """Passes everything on. Once `stop` is set, the next progress raises KeyboardInterrupt, as a Ctrl-C would."""

    def __init__(self, listener: Listener, stop: threading.Event) -> None:
        self.say, self.computing = listener.say, listener.computing  # type: ignore[method-assign]
        self._listener, self._stop = listener, stop

    @contextmanager
    def bar(self, name: str, total: float | None = None) -> Iterator[Bar]:
        with self._listener.bar(name, total) as bar:
            yield _StoppableBar(bar, self._stop)


async def in_a_thread(work: Callable[[Listener], T], progress: bool) -> T:
    """Do work on a thread, and return its value. If this coroutine is cancelled, the work is interrupted."""
    stop = threading.Event()
    try:
        return await asyncio.to_thread(explained(work), _StoppableListener(listen(progress), stop))
    finally:
        stop.set()


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
        """Run the pipeline in a file on this machine, and return its job. Raises Error.

        It writes the output file of the pipeline unless the job is stopped.
        """
        devices, prices = choose_devices(self._settings.device), read_prices(self._settings)
        listener = listen(progress)
        with one_run_at_a_time:
            _, status, _ = run_file(self._settings, self._database, Path(file), devices, listener)
        listener.say(summary(status, prices.cost_of(status)))
        return Job(self._settings, self._database, status.id)

    @explained
    def history(self, name: str, limit: int = 20) -> Rows:
        """Return the runs of a stored pipeline, newest first, as `docmill pipeline history --json` does.

        Raises Error.
        """
        return list_runs(self._database, name, require_whole_number("limit", limit), read_prices(self._settings))
