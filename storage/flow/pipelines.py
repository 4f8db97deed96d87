"""Pipelines that are kept, and what became of each time that one was due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, case, delete, func, or_, select, update

from storage.database import Database, db_now
from storage.errors import NoSuchPipeline
from storage.jobs import UNFINISHED
from storage.rows import insert
from storage.schema import Ingest, Job, PipelineRow, PipelineRun

HAND_AGAIN_S = 60.0  # how long a worker that was asked is believed to have heard
READER_SILENT_S = 120.0  # a reading of which nothing was heard for so long is taken up by another


@dataclass(frozen=True)
class Run:
    """A run that a worker has taken up: its pipeline's file, and how far it is."""

    id: int
    name: str
    path: str
    text: str
    due_at: float | None
    state: str
    job_id: int | None


def put(database: Database, name: str, path: str, text: str, schedule: dict[str, str] | None) -> None:
    """Keep a pipeline, or another version of it. A schedule that is new counts from now."""

    def work(connection: Connection) -> None:
        before = connection.execute(select(PipelineRow).where(PipelineRow.name == name)).one_or_none()
        values = {"path": path, "text": text, "schedule": schedule, "updated_at": db_now()}
        if before is None:
            insert(connection, PipelineRow, name=name, looked_at=db_now(), created_at=db_now(), **values)
            return
        if before.schedule != schedule:
            values["looked_at"] = db_now()
        connection.execute(update(PipelineRow).where(PipelineRow.id == before.id).values(**values))

    database.write(work)


def get(database: Database, name: str) -> Any:
    """The row of a pipeline. Raises NoSuchPipeline."""
    with database.read() as connection:
        return _require(connection, name)


def _require(connection: Connection, name: str) -> Any:
    row = connection.execute(select(PipelineRow).where(PipelineRow.name == name)).one_or_none()
    if row is None:
        raise NoSuchPipeline(f"there is no pipeline {name}; `docmill pipeline list` names them")
    return row


def remove(database: Database, name: str) -> None:
    """Forget a pipeline and its history; its jobs and their results stay. Raises NoSuchPipeline."""

    def work(connection: Connection) -> None:
        row = _require(connection, name)
        connection.execute(delete(PipelineRun).where(PipelineRun.pipeline_id == row.id))
        connection.execute(delete(PipelineRow).where(PipelineRow.id == row.id))

    database.write(work)


def every(database: Database) -> list[tuple[Any, Any | None]]:
    """The pipelines by name, each with its latest run, if there was one."""
    with database.read() as connection:
        rows = connection.execute(select(PipelineRow).order_by(PipelineRow.name)).all()
        latest = select(func.max(PipelineRun.id)).group_by(PipelineRun.pipeline_id)
        runs = connection.execute(select(PipelineRun).where(PipelineRun.id.in_(latest))).all()
    by_pipeline = {run.pipeline_id: run for run in runs}
    return [(row, by_pipeline.get(row.id)) for row in rows]


def history(database: Database, name: str, limit: int = 50) -> Sequence[Any]:
    """The latest runs of a pipeline, newest first. Raises NoSuchPipeline."""
    with database.read() as connection:
        row = _require(connection, name)
        runs = select(PipelineRun).where(PipelineRun.pipeline_id == row.id)
        return connection.execute(runs.order_by(PipelineRun.id.desc()).limit(limit)).all()


def scheduled(database: Database) -> Sequence[Any]:
    """The pipelines that have a schedule: {id, name, schedule, looked_at}, and the database's `now`."""
    columns = (PipelineRow.id, PipelineRow.name, PipelineRow.schedule, PipelineRow.looked_at, db_now().label("now"))
    with database.read() as connection:
        return connection.execute(select(*columns).where(PipelineRow.schedule.is_not(None))).all()


def fire(database: Database, found: Any, due_at: float) -> int | None:
    """Make the run that was due, of a pipeline as `scheduled` found it; None when another process did.

    While the run before still goes, an overlap that is to be skipped makes a run that is over at once.
    """

    def work(connection: Connection) -> int | None:
        moved = connection.execute(
            update(PipelineRow)
            .where(PipelineRow.id == found.id, PipelineRow.looked_at == found.looked_at)
            .values(looked_at=found.now)
        )
        if moved.rowcount == 0:
            return None
        going = select(PipelineRun.id).where(PipelineRun.pipeline_id == found.id, _OPEN)
        values: dict[str, Any] = {"state": "due"}
        if found.schedule["overlap"] == "skip" and (before := connection.scalar(going.limit(1))) is not None:
            reason = f"run {before} was still going"
            values = {"state": "skipped", "reason": reason, "finished_at": db_now()}
        made = (
            database.insert(PipelineRun)
            .values(pipeline_id=found.id, due_at=due_at, created_at=db_now(), **values)
            .on_conflict_do_nothing(index_elements=["pipeline_id", "due_at"])
            .returning(PipelineRun.id)
        )
        run_id: int | None = connection.scalar(made)
        return run_id

    return database.write(work)


_OPEN = and_(PipelineRun.finished_at.is_(None), PipelineRun.due_at.is_not(None))  # to be taken further by workers


def begin(database: Database, name: str) -> int:
    """A run by hand, which its caller takes to its end; one that did not get there is over. Raises NoSuchPipeline."""

    def work(connection: Connection) -> int:
        row = _require(connection, name)
        by_hand = and_(PipelineRun.pipeline_id == row.id, PipelineRun.due_at.is_(None))
        cut_off = {"state": "failed", "reason": "it was cut off", "finished_at": db_now()}
        connection.execute(update(PipelineRun).where(by_hand, PipelineRun.finished_at.is_(None)).values(**cut_off))
        return insert(connection, PipelineRun, pipeline_id=row.id, state="reading", created_at=db_now())

    return database.write(work)


def hand_out(database: Database) -> list[int]:
    """The runs that a worker has to take further, for the caller to send: their ids. Each again after a while.

    Those that are due and wait for no earlier one, those that are being read, whose reader may have died, and those
    whose job has ended.
    """
    earlier = PipelineRun.__table__.alias().c
    first = ~(
        select(earlier.id)
        .where(
            earlier.pipeline_id == PipelineRun.pipeline_id,
            earlier.id < PipelineRun.id,
            earlier.finished_at.is_(None),
            earlier.due_at.is_not(None),
        )
        .exists()
    )
    ended = select(Job.id).where(Job.id == PipelineRun.job_id, Job.state.not_in(UNFINISHED)).exists()
    wanted = or_(
        and_(PipelineRun.state == "due", first),
        PipelineRun.state == "reading",  # whoever is handed it looks whether its reader is silent
        and_(PipelineRun.state == "running", ended),
    )
    waits = or_(PipelineRun.handed_at.is_(None), PipelineRun.handed_at < db_now() - HAND_AGAIN_S)

    def work(connection: Connection) -> list[int]:
        handed = update(PipelineRun).where(_OPEN, waits, wanted).values(handed_at=db_now()).returning(PipelineRun.id)
        return sorted(connection.execute(handed).scalars())

    with database.read() as connection:  # most often there is none, and no need for a turn to write
        if connection.scalar(select(PipelineRun.id).where(_OPEN).limit(1)) is None:
            return []
    return database.write(work)


def _is_silent() -> Any:
    """Whether nothing was heard of the reading of a run's source for a while."""
    heard = select(Ingest.seen_at).join(Job, Job.ingest_id == Ingest.id).where(Job.id == PipelineRun.job_id)
    last = func.coalesce(heard.scalar_subquery(), PipelineRun.handed_at, PipelineRun.created_at)
    return last < db_now() - READER_SILENT_S


def take(database: Database, run_id: int) -> Run | None:
    """The run as it stands, for whoever takes it further; None for one that is over, or that somebody reads.

    One that is due is being read from now on.
    """

    def work(connection: Connection) -> Run | None:
        may = or_(PipelineRun.state.in_(["due", "running"]), and_(PipelineRun.state == "reading", _is_silent()))
        taken = connection.execute(
            update(PipelineRun)
            .where(PipelineRun.id == run_id, PipelineRun.finished_at.is_(None), may)
            .values(state=case((PipelineRun.state == "running", "running"), else_="reading"), handed_at=db_now())
            .returning(PipelineRun.pipeline_id)
        ).one_or_none()
        if taken is None:
            return None
        columns = (PipelineRun.id, PipelineRow.name, PipelineRow.path, PipelineRow.text, PipelineRun.due_at)
        row = connection.execute(
            select(*columns, PipelineRun.state, PipelineRun.job_id)
            .join(PipelineRow, PipelineRow.id == PipelineRun.pipeline_id)
            .where(PipelineRun.id == run_id)
        ).one()
        return Run(*row)

    return database.write(work)


def note(
    database: Database, run_id: int, state: str, *, job_id: int | None = None, reason: str | None = None
) -> bool:
    """Note how far a run is; `done` and `failed` end it. False when it had ended already."""
    values: dict[str, Any] = {"state": state, "reason": reason}
    if job_id is not None:
        values["job_id"] = job_id
    if state in {"done", "failed"}:
        values["finished_at"] = db_now()
    if state == "running":
        values["handed_at"] = None  # to be handed out as soon as its job has ended
    noted = update(PipelineRun).where(PipelineRun.id == run_id, PipelineRun.finished_at.is_(None))
    return database.write(lambda connection: connection.execute(noted.values(**values)).rowcount > 0)
