"""`docmill top`: jobs, lanes and workers as text, printed again every two seconds."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import click
from sqlalchemy import and_

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Job
from docmill.storage.results.fleet import Fleet, read_fleet
from docmill.storage.results.status import JobStatus, list_statuses
from docmill.storage.steps.jobs import UNFINISHED
from docmill.worker.cli.options import JSON
from docmill.worker.cli.printing import answer, print_json
from docmill.worker.formatting import as_json, counted, duration, local_time, printable, rate, time_left
from docmill.worker.settings import load_settings
from docmill.worker.stores import open_store

REFRESH_S = 2.0
JOBS = 50
BAR = 6  # characters
JOB_COLUMNS = ("job", "task", "corpus", "state", "progress", "texts/s", "time left")
LANE_COLUMNS = ("lane", "planned", "queued", "running", "oldest job")
WORKER_COLUMNS = ("worker", "device", "shards", "lanes", "refuses")


@click.command("top", epilog="Example: docmill top --once")
@click.option("--once", is_flag=True, help="Print them once and end.")
@JSON
def top_command(once: bool, as_json: bool) -> None:
    """Watch jobs, lanes and workers, refreshed every two seconds, until Ctrl-C.

    Without a terminal, the command prints them once.
    """
    with open_store(load_settings()) as database:
        if as_json:
            print_json(view_as_json(*read_view(database)))
            return
        is_live = sys.stdout.isatty() and not once
        while True:
            size = shutil.get_terminal_size()
            frame = plain_frame(*read_view(database), size.columns)
            if not is_live:
                answer(frame)
                return
            click.clear()
            answer("\n".join(frame.splitlines()[: size.lines - 1]))
            time.sleep(REFRESH_S)


def read_view(database: Database) -> tuple[list[JobStatus], Fleet]:
    """Return the jobs of the store, those that have not ended first, then the others, newest first; and the fleet."""
    to_do = list_statuses(database, JOBS, Job.state.in_(UNFINISHED))
    others = and_(Job.state.not_in(UNFINISHED), Job.id.not_in([job.id for job in to_do]))  # one may have ended since
    ended = list_statuses(database, JOBS - len(to_do), others)
    return [*to_do, *ended], read_fleet(database, [*database.kinds])


def job_row(job: JobStatus) -> tuple[str, ...]:
    """Return the cells of a job, with the last part of its corpus's name and a bar."""
    share = (job.texts - job.pending) / job.texts if job.texts else float(job.state == "done")
    full = int(share * BAR)
    tasks = "+".join(step.spec.kind for step in job.steps)
    left = job.time_left
    left_text = "" if job.ended else time_left(left).removesuffix(" left")
    return (
        str(job.id),
        _short(tasks, 12),
        _short(job.corpus.rpartition("/")[2], 16),
        job.state,
        f"{'#' * full}{'.' * (BAR - full)} {int(100 * share):>3} %",
        rate(left.texts_per_s) if left.texts_per_s else "",
        left_text or (_short(job.waiting_cause.replace("_", " "), 14) if job.waiting_cause else ""),
    )


def lane_rows(fleet: Fleet) -> list[tuple[str, ...]]:
    """Return the cells of each lane that has open shards."""
    return [
        (lane.name, f"{lane.planned:,}", f"{lane.queued:,}", f"{lane.running:,}", duration(lane.oldest_s or 0.0))
        for lane in fleet.lanes
        if lane.open
    ]


def worker_rows(fleet: Fleet) -> list[tuple[str, ...]]:
    """Return the cells of each live worker."""
    return [
        (
            _short(worker.host, 16),
            worker.device,
            f"{worker.load}/{worker.slots}",
            _short(", ".join(worker.lanes), 18) if len(worker.lanes) < 4 else f"{len(worker.lanes)} lanes",
            worker.device_problem
            or worker.trouble
            or "; ".join(refused.reason for refused in worker.refused)
            or "nothing",
        )
        for worker in fleet.workers
    ]


def plain_frame(jobs: Sequence[JobStatus], fleet: Fleet, width: int) -> str:
    """Return jobs and the fleet as text without color, in lines of at most `width` characters."""
    parts = [
        ("lanes", LANE_COLUMNS, lane_rows(fleet)),
        ("workers", WORKER_COLUMNS, worker_rows(fleet)),
        ("jobs", JOB_COLUMNS, [job_row(job) for job in jobs]),
    ]
    n_open = sum(fleet.jobs.get(state, 0) for state in (*UNFINISHED, "paused"))
    n_workers = counted(len(fleet.workers), "worker")
    lines = [f"{counted(n_open, 'job')} to do, {n_workers}, at {local_time(fleet.at)[-5:]}"]
    for none, columns, rows in parts:
        lines += ["", *(_table(columns, rows) if rows else [f"no {none}"])]
    return "\n".join(_short(line, width) for line in lines)


def view_as_json(jobs: Sequence[JobStatus], fleet: Fleet) -> dict[str, Any]:
    """Return jobs and the fleet for machines."""
    return {
        "jobs": [as_json(job) for job in jobs],
        "now": fleet.at,
        "lanes": [
            {
                "lane": lane.name,
                "planned": lane.planned,
                "queued": lane.queued,
                "running": lane.running,
                "oldest_s": lane.oldest_s,
            }
            for lane in fleet.lanes
            if lane.open
        ],
        "workers": [
            {
                "id": worker.id,
                "host": worker.host,
                "device": worker.device,
                "lanes": worker.lanes,
                "held": worker.load,
                "slots": worker.slots,
                "problem": worker.device_problem or worker.trouble,
                "refusals": [refused.reason for refused in worker.refused],
            }
            for worker in fleet.workers
        ],
    }


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    shown = [columns, *([printable(cell, keep="") for cell in row] for row in rows)]
    widths = [max(len(row[place]) for row in shown) for place in range(len(columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
