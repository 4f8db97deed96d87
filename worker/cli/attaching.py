"""Follow a job that other processes compute: a detached run of this machine, or a fleet."""

from __future__ import annotations

import time

from storage.core.database import Database
from storage.results.status import JobStatus, read_status
from worker.cli.exit_codes import exit_code_of
from worker.cli.follow import POLL_S, follow
from worker.cli.printing import say
from worker.errors import WorkerError
from worker.process import detached
from worker.settings import Settings


class RunEnded(WorkerError):
    """The detached run ended before its job."""


def attach(settings: Settings, database: Database, job: int) -> tuple[JobStatus, int]:
    """Follow a job to its end. Return its status and its exit code, for a detached run that of the run.

    Raises RunEnded if the job has a detached run that is over, and no worker goes on with the job.
    """

    def watch(status: JobStatus) -> None:
        run = detached.find(settings.home, job)
        if run is None or detached.lives(settings.home, job):
            return
        if settings.redis_url is not None and not status.no_worker:
            return  # other workers go on with it
        if not read_status(database, job).ended:  # it may have ended since the status was read
            raise RunEnded(_why(detached.find(settings.home, job) or run))

    status = follow(database, job, watch=watch)
    run = _awaited(settings, job)
    code = exit_code_of(status)
    return status, code if run is None or run.code is None else run.code


def _awaited(settings: Settings, job: int) -> detached.DetachedRun | None:
    """Wait for the end of a job's detached run, which may write results still. Return the run, if there is one."""
    said = False
    while detached.lives(settings.home, job):
        if not said:
            say("The job is done; its run writes the results.")
            said = True
        time.sleep(POLL_S)
    return detached.find(settings.home, job)


def _why(run: detached.DetachedRun) -> str:
    how = "crashed" if run.code is None else f"ended with exit code {run.code}"
    return (
        f"the detached run of job {run.job} {how} before the job was done; its log says more: {run.log}. "
        "The same command continues the job"
    )
