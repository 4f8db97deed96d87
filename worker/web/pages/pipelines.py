"""The pages of pipelines: their schedules, next runs and past runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import quote

from docmill.storage.core.schema import PipelineRow, PipelineRun
from docmill.storage.pipelines import pipelines
from docmill.worker.jobs.pipelines import read_costs
from docmill.worker.pipelines.schedule import BadSchedule, Schedule, next_after
from docmill.worker.prices import read_prices
from docmill.worker.web.page import Change, Page, PageRequest, Values

TONES: Mapping[str, str] = {"done": "good", "failed": "bad", "running": "active", "reading": "active", "due": "warn"}
COMING = 5
RUNS = 50
LATE_S = 60.0  # a run that begins so long after it was due is late


@dataclass(frozen=True)
class ShownPipeline:
    """A pipeline with its latest run and its next runs. `problem` says why its schedule gives none.

    `looked_at` names the state of the schedule for a form that makes a run.
    """

    name: str
    schedule: Mapping[str, Any] | None
    last: PipelineRun | None
    coming: tuple[float, ...]
    looked_at: str
    problem: str | None = None


def show_pipeline(row: PipelineRow, last: PipelineRun | None, n: int, now: float) -> ShownPipeline:
    """Return a stored pipeline with its next `n` runs. Of those that came due and were not made only the first is."""
    coming: tuple[float, ...] = ()
    problem = None
    if row.schedule is not None:
        try:
            coming = tuple(islice(_times(row, now), n))
        except BadSchedule as error:  # of another release, or of a zone that is no more
            problem = str(error)
    return ShownPipeline(row.name, row.schedule, last, coming, repr(row.looked_at), problem)


def _times(row: PipelineRow, now: float) -> Iterator[float]:
    schedule = Schedule(**row.schedule)
    yield (at := next_after(schedule, row.looked_at))
    at = max(at, now)
    while True:
        yield (at := next_after(schedule, at))


def read(request: PageRequest) -> Values:
    """Return all pipelines."""
    now = time.time()
    rows = [show_pipeline(row, last, 1, now) for row, last in pipelines.every(request.database)]
    return {"pipelines": rows, "tones": TONES, "now": now}


def read_one(request: PageRequest) -> Values:
    """Return a pipeline, its next runs and its latest runs."""
    name = request.path["name"]
    row, runs = pipelines.get(request.database, name), pipelines.history(request.database, name, RUNS)
    now = time.time()
    pipeline = show_pipeline(row, runs[0] if runs else None, COMING, now)
    known = read_costs(request.database, read_prices(request.settings), [run.job_id for run in runs])
    paid = {job_id: str(cost) for job_id, cost in known.items() if cost.amount}
    shown = {"pipeline": pipeline, "file": row.text, "runs": runs, "costs": paid}
    return shown | {"tones": TONES, "late_s": LATE_S, "now": now}


def run_now(request: PageRequest) -> tuple[str, str]:
    """Make the run that workers make when a pipeline is due, under the same rule for a run that still goes.

    The form names when the schedule was looked at, so that a form that is sent twice makes one run.
    """
    name = request.path["name"]
    path = f"/pipelines/{quote(name, safe='')}"
    stored = pipelines.get(request.database, name)
    scheduled = next((row for row in pipelines.scheduled(request.database) if row.id == stored.id), None)
    if scheduled is None:
        said = "Workers run a pipeline that has a schedule; docmill pipeline run FILE runs this one."
        return (path, f"Nothing was changed: {name} has no schedule. {said}")
    seen = request.form.get("looked_at") == repr(scheduled.looked_at)
    run_id = pipelines.fire(request.database, scheduled, scheduled.now) if seen else None
    made = next((run for run in pipelines.history(request.database, name) if run.id == run_id), None)
    if made is None:
        return (path, f"Nothing was changed: another run of {name} was made meanwhile.")
    if made.state == "skipped":
        return (path, f"Run {made.id} of {name} was skipped: {made.reason}.")
    return (path, f"Run {made.id} of {name} is due now. A live worker begins it.")


PAGES = (
    Page("/pipelines", "pipelines.html.j2", read, name="Pipelines", parts={"rows": read}),
    Page("/pipelines/{name}", "pipeline.html.j2", read_one, parts={"rows": read_one}),
)
CHANGES: tuple[Change, ...] = (Change("/pipelines/{name}/run", run_now),)
