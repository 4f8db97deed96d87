"""The queue as pages show it: each lane's open shards and slots, and the jobs that are not finished."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Job
from docmill.storage.results.backlog import Backlog, read_backlog
from docmill.storage.results.status import JobStatus, list_statuses
from docmill.storage.steps.jobs import UNFINISHED

MOST = 50  # jobs


@dataclass(frozen=True)
class Lane:
    """The queue of a kind of task: its open shards by state, and the workers that serve it.

    `oldest_s` is the age of the oldest job that runs and has open shards. `tokens_per_s` is the pace of the last two
    minutes.
    """

    name: str
    planned: int
    queued: int
    running: int
    oldest_s: float | None
    workers: int
    slots: int
    texts_per_s: float
    tokens_per_s: float

    @property
    def open(self) -> int:
        return self.planned + self.queued + self.running


@dataclass(frozen=True)
class Queue:
    """The lanes that have work or workers, and jobs that are not finished: the most urgent and oldest first."""

    lanes: tuple[Lane, ...]
    jobs: tuple[JobStatus, ...]
    unfinished: int


def read_queue(database: Database, lanes: Collection[str]) -> Queue:
    """Return the queue; `lanes` are all kinds of tasks."""
    backlog = read_backlog(database, lanes)
    latest = list_statuses(database, MOST, Job.state.in_(UNFINISHED))
    jobs = sorted(latest, key=lambda status: (-status.priority, status.id))
    unfinished = sum(backlog.jobs.get(state, 0) for state in (*UNFINISHED, "paused"))
    found = (_lane(backlog, name) for name in sorted(lanes))
    return Queue(tuple(one for one in found if one.open or one.workers), tuple(jobs), unfinished)


def _lane(backlog: Backlog, name: str) -> Lane:
    serving = [worker for worker in backlog.workers if name in worker.lanes]
    pace = backlog.paces.get(name)
    return Lane(
        name=name,
        planned=backlog.shards.get((name, "planned"), 0),
        queued=backlog.shards.get((name, "queued"), 0),
        running=backlog.shards.get((name, "running"), 0),
        oldest_s=backlog.oldest_s.get(name),
        workers=len(serving),
        slots=sum(worker.slots for worker in serving),
        texts_per_s=0.0 if pace is None else sum(pace.texts.values()),
        tokens_per_s=0.0 if pace is None else pace.tokens_in,
    )
