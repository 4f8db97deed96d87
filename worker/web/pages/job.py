"""The page of a job: its progress, its throughput over time and its steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from storage.results.status import read_status
from storage.results.throughput import Throughput, read_throughput
from worker.extras import EXTRAS
from worker.prices import read_prices
from worker.reports.filters import clock
from worker.web.page import Asked, Page, Values
from worker.web.progress import Progress

if TYPE_CHECKING:
    from storage.results.status import JobStatus

FEWEST = 3  # points of a chart
MOST_EMPTY = 0.1  # of the points, unless there are as few as can be
SIZE = {"width": 880, "height": 240, "margin_left": 24}


def read(asked: Asked) -> Values:
    """Return the job's progress."""
    status = read_status(asked.database, asked.id("job"))
    cost = read_prices(asked.settings).cost_of(status)
    return {**shared(status), "cost": None if cost is None else str(cost), "now": time.time()}


def read_chart(asked: Asked) -> Values:
    """Return the job's throughput as a chart; None if there is too little of it."""
    return {"chart": _chart(read_throughput(asked.database, asked.id("job")))}


def shared(status: JobStatus) -> dict[str, object]:
    """Return what every page of a job shows at its top."""
    return {"job": Progress(status), "status": status}


def _chart(found: Throughput) -> str | None:
    points = smoothed([one.tokens for one in found.intervals])
    if len(points) < FEWEST or not EXTRAS["report"].is_installed:
        return None
    from worker.reports import charts

    together = len(found.intervals) // len(points)
    named = [
        (clock(one.at), tokens / (found.width_s * together))
        for one, tokens in zip(found.intervals[::together], points, strict=True)
    ]
    return charts.line(named, "Tokens per second over time, UTC", SIZE)


def smoothed(counts: Sequence[int]) -> list[int]:
    """Return the sums of as many neighbours that few sums are 0: shards count as they end, in leaps."""
    sums = [*counts]
    for together in (n for n in range(1, len(counts) // FEWEST + 1) if len(counts) % n == 0):
        sums = [sum(counts[first : first + together]) for first in range(0, len(counts), together)]
        if sums.count(0) <= len(sums) * MOST_EMPTY:
            break
    return sums if any(sums) else []


PAGE = Page("/jobs/{job:int}", "job.html.j2", read, parts={"progress": read, "chart": read_chart})
