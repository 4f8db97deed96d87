"""The pages of jobs, their failures, pipelines, the queue and the workers, and the changes that forms post."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, cast
from urllib.parse import quote

from sqlalchemy import and_, true
from starlette.responses import Response, StreamingResponse

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Job, PipelineRow, PipelineRun
from docmill.storage.core.specs import Spec
from docmill.storage.errors import JobStopped
from docmill.storage.pipelines import pipelines
from docmill.storage.results.fleet import list_workers, read_fleet
from docmill.storage.results.marked import group_reasons
from docmill.storage.results.status import STATES, JobStatus, list_statuses, read_status
from docmill.storage.steps import jobs
from docmill.storage.steps.jobs import UNFINISHED
from docmill.storage.writers import excel
from docmill.storage.writers.formats import CSV_FOR_EXCEL, JSONL, FormatUnfit, Writer
from docmill.tasks import kinds
from docmill.worker.exports import read_table
from docmill.worker.formatting import REASON_CLASSES, time_left
from docmill.worker.jobs.follow import change_job, resume_job, retry_failures
from docmill.worker.jobs.pipelines import read_costs
from docmill.worker.pipelines.schedule import BadSchedule, next_after
from docmill.worker.prices import Prices, read_prices
from docmill.worker.settings import DAY_S
from docmill.worker.web.page import Change, Page, PageRefused, PageRequest, Values

ROWS = 25
STDIN = "-"
LARGEST_PRIORITY = 1_000_000
TENTH = 10
MOST_UNFINISHED = 50  # jobs on the page of the queue
TONES = {  # by state: the tone of its badge
    "ingesting": "active",
    "running": "active",
    "paused": "quiet",
    "blocked": "bad",
    "done": "good",
    "stopped": "bad",
    "cancelled": "quiet",
}


def last_day(statuses: Sequence[JobStatus], is_all: bool, prices: Prices, now: float) -> Values | None:
    """Return the tokens and the cost of the jobs of the last 24 hours, of the latest jobs; None without such jobs.

    With `has_more`, older pages have more of these jobs.
    """
    made = [status for status in statuses if status.created_at > now - DAY_S]
    if not made:
        return None
    return {
        "jobs": len(made),
        "tokens_in": sum(status.tokens_in for status in made),
        "tokens_out": sum(status.tokens_out for status in made),
        "cost": prices.cost(
            (step.spec.model, step.tokens_in, step.tokens_out) for status in made for step in status.computing
        ),
        "has_more": not is_all and len(made) == len(statuses),
    }


def read_jobs(request: PageRequest) -> Values:
    """Return a page of jobs, in one state or in all."""
    state, before = request.choice("state", STATES), request.number("before")
    wanted = and_(STATES[state] if state else true(), Job.id < before if before else true())
    statuses = list_statuses(request.database, ROWS + 1, wanted)
    prices, now = read_prices(request.settings), time.time()
    day = None if state or before else last_day(statuses[:ROWS], len(statuses) <= ROWS, prices, now)
    costs = {status.id: str(cost) for status in statuses[:ROWS] if (cost := prices.cost_of(status)) and cost.amount}
    return {
        "costs": costs,
        "day": day,
        "jobs": [JobProgress(status) for status in statuses[:ROWS]],
        "older": statuses[ROWS - 1].id if len(statuses) > ROWS else None,
        "state": state,
        "before": before,
        "states": STATES,
        "now": now,
    }


@dataclass(frozen=True)
class JobProgress:
    """A job at one moment, with the words and shares that its bar shows."""

    status: JobStatus

    @property
    def state(self) -> str:
        """The state in a word: `waiting` for a job that no worker works on."""
        return "waiting" if self.status.no_worker else self.status.state

    @property
    def tone(self) -> str:
        return "warn" if self.status.no_worker else TONES.get(self.status.state, "quiet")

    @property
    def title(self) -> str:
        """Its tasks as verbs, and the name of its source: `Summarize · letters.jsonl`."""
        verbs = dict.fromkeys(kinds.verb(step.spec.kind) for step in self.status.steps)
        return f"{' → '.join(verbs)} · {last_part(self.status.source)}"

    @property
    def about(self) -> str:
        """Its models, and the name of its corpus where the source does not say it."""
        models = dict.fromkeys(name_model(step.spec) for step in self.status.steps)
        corpus = self.status.corpus
        if corpus.startswith(self.status.source):
            of_source = corpus.removeprefix(self.status.source).strip(" ()")
        else:
            of_source = "" if self.status.source == STDIN else f"corpus {corpus}"
        return " · ".join(filter(None, (", ".join(models), of_source)))

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Texts done, skipped, failed and to do."""
        status = self.status
        return status.done, status.skipped, status.failed, status.pending

    @property
    def lacking(self) -> dict[str, int]:
        """The numbers of texts and records that have no result and that no worker will compute, by outcome."""
        status = self.status
        counts = {"skipped": status.skipped, "failed": status.failed, "rejected": status.rejected}
        return {outcome: n for outcome, n in counts.items() if n}

    @property
    def counted(self) -> list[str]:
        """The counts of a step that are not zero for all steps."""
        steps, counts = self.status.computing, ("done", "failed", "skipped", "blocked", "pending")
        return [name for name in counts if name == "done" or any(getattr(step, name) for step in steps)]

    @property
    def percent(self) -> int:
        """Return the percentage of texts that are finished, rounded down: 100 if all are."""
        status = self.status
        if not status.texts:
            return 100 if status.ended else 0
        return 100 * (status.texts - status.pending) // status.texts

    @property
    def tenths(self) -> int:
        """The percents rounded down to tens, for screen readers, which should not speak every second."""
        return self.percent // TENTH * TENTH

    @property
    def left(self) -> str | None:
        """The time left in words; None while it is not known."""
        return time_left(self.status.time_left) or None if self.status.pending else None

    @property
    def wait(self) -> str | None:
        """The reason why the job makes no progress, or why it was stopped."""
        reason = self.status.waiting_for or self.status.reason
        return None if reason is None else reason.removesuffix(".")


def name_model(spec: Spec) -> str:
    """Return the short name of a model: its adapter's, or the last part of its path."""
    name = str(spec.params.get("adapter", spec.model))
    return last_part(name) if Path(name).is_absolute() else name


def last_part(source: str) -> str:
    """Return the last part of a path or a URL."""
    return "standard input" if source == STDIN else source.rstrip("/").rpartition("/")[2] or source


def read_job(request: PageRequest) -> Values:
    """Return the job's progress."""
    status = read_status(request.database, request.job)
    cost = read_prices(request.settings).cost_of(status)
    return {
        **shared(status),
        "has_ended": status.ended,
        "cost": None if cost is None else str(cost),
        "formats": list_formats(status),
        "name_model": name_model,
        "now": time.time(),
    }


def shared(status: JobStatus) -> dict[str, object]:
    """Return the values that every page of a job shows at its top."""
    return {"job": JobProgress(status), "status": status}


def read_failures(request: PageRequest) -> Values:
    """Return the failures of each step by reason, most frequent ones first."""
    status = read_status(request.database, request.job)
    reasons, are_all = group_reasons(request.database, status.id)
    classes = {group.reason_class for groups in reasons.values() for group in groups if group.status == "failed"}
    return {
        **shared(status),
        "reasons": reasons,
        "is_complete": are_all,
        "classes": [name for name in REASON_CLASSES if name in classes],
        "advice": REASON_CLASSES,
    }


def _of_job(act: Callable[[PageRequest], str]) -> Change:
    """Return a change of a job, which leads back to the job's page. ``act`` returns the notice."""
    return lambda request: (f"/jobs/{request.job}", act(request))


def _state(act: Callable[[Database, int], bool], became: str) -> Change:
    return _of_job(lambda request: change_job(request.database, request.job, act, became)[1])


def _resume(request: PageRequest) -> str:
    return resume_job(request.settings, request.database, request.job)[1]


def _prioritize(request: PageRequest) -> str:
    text = request.form.get("priority", "")
    try:
        priority = int(text)
    except ValueError:
        raise PageRefused(f"The priority {text!r} is not a whole number.") from None
    if abs(priority) > LARGEST_PRIORITY:
        raise PageRefused(f"The priority {priority} is too large; the largest is {LARGEST_PRIORITY:,}.")
    change = partial(jobs.prioritize, priority=priority)
    return change_job(request.database, request.job, change, f"at priority {priority}")[1]


def _retry(request: PageRequest) -> str:
    """Try the failed documents of a job again: all, or those of one class."""
    only = request.form.get("only") or None
    if only is not None and only not in REASON_CLASSES:
        raise PageRefused(f"There is no class of failures {only!r}; there are {', '.join(REASON_CLASSES)}.")
    try:
        return retry_failures(request.database, request.job, only)[2]
    except JobStopped as error:
        return f"Nothing was changed: {error}."


def read_lanes(request: PageRequest) -> Values:
    """Return the lanes and the jobs that are not finished."""
    fleet = read_fleet(request.database, [*request.database.kinds])
    latest = list_statuses(request.database, MOST_UNFINISHED, Job.state.in_(UNFINISHED))
    return {
        "lanes": [lane for lane in fleet.lanes if lane.open or lane.workers],
        "jobs": [JobProgress(status) for status in sorted(latest, key=lambda status: (-status.priority, status.id))],
        "unfinished": sum(fleet.jobs.get(state, 0) for state in (*UNFINISHED, "paused")),
        "now": time.time(),
    }


def read_workers(request: PageRequest) -> Values:
    """Return the workers that were seen last."""
    return {"workers": list_workers(request.database), "now": time.time()}


DOWNLOAD = "/jobs/{job}/results{suffix}"
MOST_DOCUMENTS = 50_000  # of a job whose results the page writes
_WRITERS: Mapping[str, tuple[str, Writer]] = MappingProxyType(
    {
        writer.suffix: (name, writer)
        for name, writer in (("Excel", excel.WRITER), ("CSV", CSV_FOR_EXCEL), ("JSON lines", JSONL))
    }
)
_CHUNK = 1 << 16  # bytes


def list_formats(status: JobStatus) -> dict[str, str]:
    """Return the names of the formats in which the page offers a job's results, by the endings of their files."""
    if not status.ended or not status.done or status.documents > MOST_DOCUMENTS:
        return {}
    return {
        suffix: name
        for suffix, (name, writer) in _WRITERS.items()
        if writer.extra is None or writer.extra.is_installed
    }


def download(request: PageRequest) -> Response:
    """Return the results of a job as a file. Raises NotFound and PageRefused."""
    status, suffix = read_status(request.database, request.job), request.path["suffix"]
    if suffix not in list_formats(status):
        raise PageRefused(f"There is no such file of job {status.id}.", HTTPStatus.NOT_FOUND)
    if request.from_another_site:
        said = f"This is a link of another site. The page of job {status.id} has the same file."
        raise PageRefused(said, HTTPStatus.FORBIDDEN)
    writer = _WRITERS[suffix][1]
    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - it is closed once it was sent
    try:
        table = read_table(request.database, status.id, writer, with_input=True)
        writer.write(table.rows, table.columns, file)
    except (FormatUnfit, OSError) as error:
        file.close()
        said = f"The file cannot be written: {error}. `docmill results {status.id} --out FILE` takes other formats."
        raise PageRefused(said, HTTPStatus.SERVICE_UNAVAILABLE) from error
    name = "-".join(dict.fromkeys(step.spec.kind for step in status.steps))
    headers = {"Content-Disposition": f'attachment; filename="{name}-{status.id}{suffix}"'}
    return StreamingResponse(_chunks(file), media_type="application/octet-stream", headers=headers)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        file.seek(0)
        while chunk := file.read(_CHUNK):
            yield chunk


RUN_TONES = {
    "done": "good",
    "failed": "bad",
    "running": "active",
    "reading": "active",
    "due": "warn",
}
COMING = 5
RUNS = 50
LATE_S = 60.0  # a run that begins so long after it was due is late


def show_pipeline(row: PipelineRow, last: PipelineRun | None, n: int, now: float) -> Values:
    """Return a stored pipeline with its latest run and its next `n` runs; of those that are overdue only the first.

    `problem` says why its schedule gives none. `looked_at` names the state of the schedule for a form that makes a
    run.
    """
    coming: tuple[float, ...] = ()
    problem = None
    if row.schedule is not None:
        try:
            coming = tuple(islice(_times(row, now), n))
        except BadSchedule as error:  # of another release, or of a zone that is no more
            problem = str(error)
    shown = {"name": row.name, "schedule": row.schedule, "last": last, "coming": coming}
    return shown | {"looked_at": repr(row.looked_at), "problem": problem}


def _times(row: PipelineRow, now: float) -> Iterator[float]:
    cron, timezone = row.schedule["cron"], row.schedule["timezone"]
    yield (at := next_after(cron, timezone, row.looked_at))
    at = max(at, now)
    while True:
        yield (at := next_after(cron, timezone, at))


def read_pipelines(request: PageRequest) -> Values:
    """Return all pipelines."""
    now = time.time()
    rows = [show_pipeline(row, last, 1, now) for row, last in pipelines.every(request.database)]
    return {"pipelines": rows, "tones": RUN_TONES, "now": now}


def read_pipeline(request: PageRequest) -> Values:
    """Return a pipeline, its next runs and its latest runs."""
    name = request.path["name"]
    row, runs = pipelines.get(request.database, name), pipelines.history(request.database, name, RUNS)
    now = time.time()
    pipeline = show_pipeline(row, runs[0] if runs else None, COMING, now)
    known = read_costs(request.database, read_prices(request.settings), [run.job_id for run in runs])
    paid = {job_id: str(cost) for job_id, cost in known.items() if cost.amount}
    shown = {"pipeline": pipeline, "file": row.text, "runs": runs, "costs": paid}
    return shown | {"tones": RUN_TONES, "late_s": LATE_S, "now": now}


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
    Page("/jobs", "jobs.html.j2", read_jobs, name="Jobs", parts=("rows",)),
    Page("/jobs/{job}", "job.html.j2", read_job, parts=("progress", "details")),
    Page("/jobs/{job}/failures", "failures.html.j2", read_failures),
    Page("/pipelines", "pipelines.html.j2", read_pipelines, name="Pipelines", parts=("rows",)),
    Page("/pipelines/{name}", "pipeline.html.j2", read_pipeline, parts=("rows",)),
    Page("/workers", "workers.html.j2", read_workers, name="Workers", parts=("rows",)),
    Page("/queue", "queue.html.j2", read_lanes, name="Queue", parts=("rows",)),
)
CHANGES: Mapping[str, Change] = MappingProxyType(  # by the path that a form posts to
    {
        "/jobs/{job}/pause": _state(jobs.pause, "paused"),
        "/jobs/{job}/resume": _of_job(_resume),
        "/jobs/{job}/cancel": _state(jobs.cancel, "cancelled"),
        "/jobs/{job}/priority": _of_job(_prioritize),
        "/jobs/{job}/retry": _of_job(_retry),
        "/pipelines/{name}/run": run_now,
    }
)
