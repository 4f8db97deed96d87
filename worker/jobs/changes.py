"""Changes of jobs: hold one, resume it, cancel it, give it another priority, or try its failures again."""

from __future__ import annotations

from collections.abc import Callable

from docmill.storage.core.database import Database
from docmill.storage.steps import jobs
from docmill.worker.formatting import counted


def change_job(
    database: Database, job_id: int, change: Callable[[Database, int], bool], became: str
) -> tuple[bool, str]:
    """Apply a change to a job. Return False if it had ended already, and a sentence on what became of it."""
    changed = change(database, job_id)
    return changed, f"Job {job_id} is {became}." if changed else f"Job {job_id} had ended already."


def retry_failures(database: Database, job_id: int, only: str | None) -> tuple[int, bool, str]:
    """Try the failed texts of a job again: all, or those of one class. Raises JobStopped.

    Return their number, True if a stopped job goes on, and a sentence that says so.
    """
    was_stopped = jobs.require(database, job_id).state == "stopped"
    texts = jobs.retry(database, job_id, only)
    goes_on = was_stopped and jobs.require(database, job_id).state != "stopped"
    if texts:
        return texts, goes_on, f"{counted(texts, 'text')} of job {job_id} will be tried again."
    if goes_on:
        said = f"Job {job_id} goes on. Its doubtful results so far no longer count against --max-flagged."
        return texts, goes_on, said
    return texts, goes_on, f"Job {job_id} has nothing to try again."
