"""Changes of jobs that the page's forms post."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from docmill.storage.errors import JobStopped
from docmill.storage.steps import jobs
from docmill.worker.explaining.explanation import CLASSES
from docmill.worker.reports.filters import counted
from docmill.worker.web.page import Asked, BadRequest, Change, Changed

if TYPE_CHECKING:
    from docmill.storage.core.database import Database

LARGEST_PRIORITY = 1_000_000


def _state(act: Callable[[Database, int], bool], became: str) -> Callable[[Asked], Changed]:
    def change(asked: Asked) -> Changed:
        job = asked.id("job")
        changed = act(asked.database, job)
        return Changed(f"/jobs/{job}", f"Job {job} is {became}." if changed else f"Job {job} had ended already.")

    return change


def prioritise(asked: Asked) -> Changed:
    """Give a job another priority."""
    job, given = asked.id("job"), asked.form.get("priority", "")
    try:
        priority = int(given)
    except ValueError:
        raise BadRequest(f"The priority {given!r} is no whole number.") from None
    if abs(priority) > LARGEST_PRIORITY:
        raise BadRequest(f"The priority {priority} is too large; the largest is {LARGEST_PRIORITY:,}.")
    changed = jobs.prioritise(asked.database, job, priority)
    said = f"Job {job} has the priority {priority}." if changed else f"Job {job} had ended already."
    return Changed(f"/jobs/{job}", said)


def retry(asked: Asked) -> Changed:
    """Try the failed documents of a job again: all, or those of one class."""
    job, only = asked.id("job"), asked.form.get("only") or None
    if only is not None and only not in CLASSES:
        raise BadRequest(f"There is no class of failures {only!r}; there are {', '.join(CLASSES)}.")
    was_stopped = jobs.require(asked.database, job).state == "stopped"
    try:
        n = jobs.retry(asked.database, job, only)
    except JobStopped as error:
        return Changed(f"/jobs/{job}", f"Nothing was changed: {error}.")
    if n:
        return Changed(f"/jobs/{job}", f"{counted(n, 'text')} of job {job} will be tried again.")
    goes_on = was_stopped and jobs.require(asked.database, job).state != "stopped"
    return Changed(f"/jobs/{job}", f"Job {job} goes on." if goes_on else f"Job {job} has nothing to try again.")


CHANGES: tuple[Change, ...] = (
    Change("/jobs/{job:int}/pause", _state(jobs.pause, "paused")),
    Change("/jobs/{job:int}/resume", _state(jobs.resume, "resumed")),
    Change("/jobs/{job:int}/cancel", _state(jobs.cancel, "cancelled")),
    Change("/jobs/{job:int}/priority", prioritise),
    Change("/jobs/{job:int}/retry", retry),
)
