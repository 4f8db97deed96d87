"""The page of jobs, newest first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from docmill.storage.results.status import STATES, list_jobs
from docmill.worker.prices import Cost, Prices, read_prices
from docmill.worker.web.page import Asked, Page, Values
from docmill.worker.web.progress import Progress
from docmill.worker.web.words import DAY_S

if TYPE_CHECKING:
    from docmill.storage.results.status import JobStatus

ROWS = 25


@dataclass(frozen=True)
class Day:
    """The jobs on a page that were made in the last 24 hours. `has_more`: older pages have more of them."""

    jobs: int
    tokens_in: int
    tokens_out: int
    cost: Cost | None
    has_more: bool


def last_day(statuses: Sequence[JobStatus], is_all: bool, prices: Prices, now: float) -> Day | None:
    """Return what the jobs of the last 24 hours used, of the latest jobs; None if there are none of that time."""
    made = [status for status in statuses if status.created_at > now - DAY_S]
    if not made:
        return None
    return Day(
        len(made),
        sum(status.tokens_in for status in made),
        sum(status.tokens_out for status in made),
        prices.cost((one.spec.model, one.tokens_in, one.tokens_out) for status in made for one in status.computing),
        not is_all and len(made) == len(statuses),
    )


def read(asked: Asked) -> Values:
    """Return a page of jobs, in one state or in all."""
    state, before = asked.choice("state", STATES), asked.number("before")
    found = list_jobs(asked.database, state=state, before=before, limit=ROWS + 1)
    prices, now = read_prices(asked.settings), time.time()
    day = None if state or before else last_day(found[:ROWS], len(found) <= ROWS, prices, now)
    costs = {one.id: str(cost) for one in found[:ROWS] if (cost := prices.cost_of(one)) and cost.amount}
    return {
        "costs": costs,
        "day": day,
        "jobs": [Progress(status) for status in found[:ROWS]],
        "older": found[ROWS - 1].id if len(found) > ROWS else None,
        "state": state,
        "before": before,
        "states": STATES,
        "now": now,
    }


PAGE = Page("/jobs", "jobs.html.j2", read, name="Jobs", parts={"rows": read})
