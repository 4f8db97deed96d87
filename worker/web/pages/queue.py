"""The page of the queue: lanes, and why jobs that are not finished wait."""

from __future__ import annotations

import time

from docmill.storage.results.queue import read_queue
from docmill.worker.web.page import Asked, Page, Values
from docmill.worker.web.progress import Progress


def read(asked: Asked) -> Values:
    """Return the lanes and the jobs that are not finished."""
    found = read_queue(asked.database, [*asked.database.kinds])
    return {
        "lanes": found.lanes,
        "jobs": [Progress(status) for status in found.jobs],
        "unfinished": found.unfinished,
        "now": time.time(),
    }


PAGE = Page("/queue", "queue.html.j2", read, name="Queue", parts={"rows": read})
