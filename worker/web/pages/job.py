"""The page of a job: its progress, its throughput over time and its steps."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from docmill.storage.results.job_counts import finished_shards
from docmill.storage.results.status import read_status
from docmill.storage.steps.jobs import require
from docmill.worker.extras import EXTRAS
from docmill.worker.prices import read_prices
from docmill.worker.reports import charts
from docmill.worker.web.page import Asked, Page, Values
from docmill.worker.web.progress import Progress

if TYPE_CHECKING:
    from docmill.storage.results.status import JobStatus

SIZE = {"width": 880, "height": 240, "margin_left": 24}


def read(asked: Asked) -> Values:
    """Return the job's progress."""
    status = read_status(asked.database, asked.id("job"))
    cost = read_prices(asked.settings).cost_of(status)
    return {**shared(status), "cost": None if cost is None else str(cost), "now": time.time()}


def read_chart(asked: Asked) -> Values:
    """Return the job's throughput as a chart; None if there is too little of it."""
    job_id = asked.id("job")
    require(asked.database, job_id)
    drawn = EXTRAS["report"].is_installed
    return {"chart": charts.throughput([*finished_shards(asked.database, job_id)], SIZE) if drawn else None}


def shared(status: JobStatus) -> dict[str, object]:
    """Return what every page of a job shows at its top."""
    return {"job": Progress(status), "status": status}


PAGE = Page("/jobs/{job:int}", "job.html.j2", read, parts={"progress": read, "chart": read_chart})
