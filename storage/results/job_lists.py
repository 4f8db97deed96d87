"""Lists of jobs, newest first, in pages that are sought by the number of the last job."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sqlalchemy import ColumnElement, and_, true

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Job
from docmill.storage.results.status import JobStatus, list_statuses
from docmill.storage.steps.jobs import RUNS, UNFINISHED

STATES: Mapping[str, ColumnElement[bool]] = MappingProxyType(
    {
        "open": RUNS,
        "paused": and_(Job.state.in_(UNFINISHED), Job.paused),
        "done": Job.state == "done",
        "stopped": Job.state == "stopped",
        "cancelled": Job.state == "cancelled",
    }
)


def list_jobs(
    database: Database, *, state: str | None = None, before: int | None = None, limit: int = 50
) -> list[JobStatus]:
    """Return jobs that are older than the job `before`, newest first. `state` is one of `STATES`; None is all."""
    wanted = true() if state is None else STATES[state]
    older = true() if before is None else Job.id < before
    return list_statuses(database, limit, and_(wanted, older))
