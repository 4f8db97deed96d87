"""The page of jobs, newest first."""

from __future__ import annotations

import time

from storage.results.job_lists import STATES, list_jobs
from worker.prices import read_prices
from worker.web.page import Asked, Page, Values
from worker.web.progress import Progress

ROWS = 25


def read(asked: Asked) -> Values:
    """Return a page of jobs, in one state or in all."""
    state, before = asked.choice("state", STATES), asked.number("before")
    found = list_jobs(asked.database, state=state, before=before, limit=ROWS + 1)
    prices = read_prices(asked.settings)
    costs = {one.id: str(cost) for one in found[:ROWS] if (cost := prices.cost_of(one)) and cost.amount}
    return {
        "costs": costs,
        "jobs": [Progress(status) for status in found[:ROWS]],
        "older": found[ROWS - 1].id if len(found) > ROWS else None,
        "state": state,
        "before": before,
        "states": STATES,
        "now": time.time(),
    }


PAGE = Page("/jobs", "jobs.html.j2", read, name="Jobs", parts={"rows": read})
