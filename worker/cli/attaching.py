"""Follow a job that other processes compute: a detached run of this machine, or a fleet."""

from __future__ import annotations

import time

from storage.core.database import Database
from storage.results.status import JobStatus, read_status
from worker.cli.exit_codes import exit_code_of
from worker.cli.follow import POLL_S, follow
from worker.cli.printing import say
from worker.errors import WorkerError
from worker.process.detached import DetachedRun, Runs
from worker.settings import Settings


class RunEnded(WorkerError):
    """The detached run ended before its job."""


def attach(settings: Settings, database: Database, job: int) -> tuple[JobStatus, int]:
    """Follow a job to its end. Return its status and its exit code, for a detached run that of the run.

    Raises RunEnded if the job has a detached run that is over, and no worker goes on with the job.
    """

    runs = Runs.of(settings)

    def watch(status: JobStatus) -> None:
        run = runs.find(job)
        if run is None or runs.lives(job):
            return
        if settings.redis_url is not None and not status.no_worker:
            return  # other workers go on with it
        if not read_status(database, job).ended:  # it may have ended since the status was read
            raise RunEnded(_why(runs.find(job) or run))

    status = follow(database, job, watch=watch)
    run = _awaited(runs, job)
    code = exit_code_of(status)
    return status, code if run is None or run.code is None else run.code


def _awaited(runs: Runs, job: int) -> DetachedRun | None:
    """Wait for the end of a job's detached run, which may write results still. Return the run, if there is one."""
    said = False
    while runs.lives(job):
        if not said:
            say("The job has ended; waiting for its run, which may still write results.")
            said = True
        time.sleep(POLL_S)
    return runs.find(job)


def _why(run: DetachedRun) -> str:
    how = "crashed" if run.code is None else f"ended with exit code {run.code}"
    return (
        f"the detached run of job {run.job} {how} before the job was done. Run the same command again to continue "
        f"the job. The log of the run: {run.log}"
    )
