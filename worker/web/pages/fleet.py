"""The pages of the queue and of the workers."""

from __future__ import annotations

import time

from docmill.storage.results.queue import read_queue
from docmill.storage.results.worker_list import list_workers
from docmill.worker.web.page import Asked, Page, Values
from docmill.worker.web.pages.jobs import Progress

SLOW = 2.0  # times as long as other workers


def read_lanes(asked: Asked) -> Values:
    """Return the lanes and the jobs that are not finished."""
    found = read_queue(asked.database, [*asked.database.kinds])
    return {
        "lanes": found.lanes,
        "jobs": [Progress(status) for status in found.jobs],
        "unfinished": found.unfinished,
        "now": time.time(),
    }


def read_workers(asked: Asked) -> Values:
    """Return the workers that were seen last."""
    return {"workers": list_workers(asked.database), "slow": SLOW, "now": time.time()}


PAGES = (
    Page("/workers", "workers.html.j2", read_workers, name="Workers", parts={"rows": read_workers}),
    Page("/queue", "queue.html.j2", read_lanes, name="Queue", parts={"rows": read_lanes}),
)
