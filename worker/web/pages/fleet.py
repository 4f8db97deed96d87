"""The pages of the queue and of the workers."""

from __future__ import annotations

import time

from docmill.storage.core.schema import Job
from docmill.storage.results.fleet import list_workers, read_fleet
from docmill.storage.results.status import list_statuses
from docmill.storage.steps.jobs import UNFINISHED
from docmill.worker.web.page import Page, PageRequest, Values
from docmill.worker.web.pages.jobs import JobProgress

MOST = 50  # jobs
SLOW = 2.0  # times as long as other workers


def read_lanes(request: PageRequest) -> Values:
    """Return the lanes and the jobs that are not finished."""
    fleet = read_fleet(request.database, [*request.database.kinds])
    latest = list_statuses(request.database, MOST, Job.state.in_(UNFINISHED))
    return {
        "lanes": [lane for lane in fleet.lanes if lane.open or lane.workers],
        "jobs": [JobProgress(status) for status in sorted(latest, key=lambda status: (-status.priority, status.id))],
        "unfinished": sum(fleet.jobs.get(state, 0) for state in (*UNFINISHED, "paused")),
        "now": time.time(),
    }


def read_workers(request: PageRequest) -> Values:
    """Return the workers that were seen last."""
    return {"workers": list_workers(request.database), "slow": SLOW, "now": time.time()}


PAGES = (
    Page("/workers", "workers.html.j2", read_workers, name="Workers", parts={"rows": read_workers}),
    Page("/queue", "queue.html.j2", read_lanes, name="Queue", parts={"rows": read_lanes}),
)
