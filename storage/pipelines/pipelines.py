"""Stored pipelines, their runs, and the leases of processes that continue a run.

A lapsed lease only permits another process to take the run. The fence decides who may write: it rises with each take,
and every write of a holder names the fence of its lease. Times are the database's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Row, and_, bindparam, case, delete, or_, select, update

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import insert_row
from docmill.storage.core.schema import Job, PipelineRow, PipelineRun, PipelineRunFile, db_now
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import LeaseLost, NotFound
from docmill.storage.steps.jobs import UNFINISHED

HAND_AGAIN_S = 60.0  # after which a run that no worker has taken is handed out again
CUT_OFF = "it was cut off"
JOB_REMOVED = "its job was removed with its corpus"


@dataclass(frozen=True)
class Run:
    """A run that a process holds: its pipeline, its state, and the fence of the lease."""

    id: int
    fence: int
    name: str
    due_at: float | None
    state: str
    job_id: int | None


def put(database: Database, name: str, path: str, text: str, schedule: dict[str, str] | None) -> None:
    """Store a pipeline, or its new version. A new schedule counts from now."""

    def work(transaction: Transaction) -> None:
        before = transaction.execute(select(PipelineRow).where(PipelineRow.name == name)).one_or_none()
        values = {"path": path, "text": text, "schedule": schedule, "updated_at": db_now()}
        if before is None:
            insert_row(transaction, PipelineRow, name=name, looked_at=db_now(), created_at=db_now(), **values)
            return
        if before.schedule != schedule:
            values["looked_at"] = db_now()
        transaction.execute(update(PipelineRow).where(PipelineRow.id == before.id).values(**values))

    database.write(work)


def get(database: Database, name: str) -> PipelineRow:
    """Return the row of a pipeline. Raises NotFound."""
    with database.read() as transaction:
        return _require(transaction, name)


def _require(transaction: Transaction, name: str) -> PipelineRow:
    row = transaction.execute(select(PipelineRow).where(PipelineRow.name == name)).one_or_none()
    if row is None:
        raise NotFound(f"there is no pipeline {name}; `docmill pipeline list` names them")
    return PipelineRow.of(row)


def remove(database: Database, name: str) -> None:
    """Remove a pipeline and its runs; its jobs and their results stay. Raises NotFound."""

    def work(transaction: Transaction) -> None:
        row = _require(transaction, name)
        transaction.keep_last_ids(PipelineRun)
        transaction.execute(delete(PipelineRun).where(PipelineRun.pipeline_id == row.id))
        transaction.execute(delete(PipelineRow).where(PipelineRow.id == row.id))

    database.write(work)


def every(database: Database) -> list[tuple[PipelineRow, PipelineRun | None]]:
    """Return the pipelines by name, each with its latest run that was not skipped, if there was one."""
    with database.read() as transaction:
        rows = transaction.execute(select(PipelineRow).order_by(PipelineRow.name)).all()
        run = PipelineRun.__table__.alias().c  # of each pipeline the end of an index
        of_pipeline = select(run.id).where(run.pipeline_id == PipelineRow.id, run.state != "skipped")
        latest = of_pipeline.order_by(run.id.desc()).limit(1).scalar_subquery()
        runs = transaction.execute(select(PipelineRun).join(PipelineRow, PipelineRun.id == latest)).all()
    by_pipeline = {run.pipeline_id: PipelineRun.of(run) for run in runs}
    return [(PipelineRow.of(row), by_pipeline.get(row.id)) for row in rows]


def history(database: Database, name: str, limit: int = 50) -> list[PipelineRun]:
    """Return the latest runs of a pipeline, newest first. Raises NotFound."""
    with database.read() as transaction:
        row = _require(transaction, name)
        runs = select(PipelineRun).where(PipelineRun.pipeline_id == row.id)
        rows = transaction.execute(runs.order_by(PipelineRun.id.desc()).limit(limit))
        return [PipelineRun.of(row) for row in rows]


Scheduled: TypeAlias = Row[int, str, Any, float, float]


def scheduled(database: Database) -> Sequence[Scheduled]:
    """Return id, name, schedule and `looked_at` of the pipelines with a schedule, and `now`, the database's time."""
    return database.rows(_SCHEDULED)


_SCHEDULED = select(
    PipelineRow.id, PipelineRow.name, PipelineRow.schedule, PipelineRow.looked_at, db_now().label("now")
).where(PipelineRow.schedule.is_not(None))


def fire(database: Database, pipeline: Scheduled, due_at: float) -> int | None:
    """Make the due run of a pipeline, which `scheduled` returned. Return its id; None if another process made it.

    If an earlier run goes on and the schedule skips overlaps, the new run is `skipped`, and over at once.
    """

    def work(transaction: Transaction) -> int | None:
        moved = transaction.execute(
            update(PipelineRow)
            .where(PipelineRow.id == pipeline.id, PipelineRow.looked_at == pipeline.looked_at)
            .values(looked_at=pipeline.now)
        )
        if moved.rowcount == 0:
            return None
        going = select(PipelineRun.id).where(PipelineRun.pipeline_id == pipeline.id, _OPEN)
        values: dict[str, Any] = {"state": "due"}
        if pipeline.schedule["overlap"] == "skip" and (before := transaction.scalar(going.limit(1))) is not None:
            reason = f"run {before} had not ended"
            values = {"state": "skipped", "reason": reason, "finished_at": db_now()}
        made = (
            transaction.insert(PipelineRun)
            .values(**transaction.own_id(PipelineRun), pipeline_id=pipeline.id, due_at=due_at)
            .values(created_at=db_now(), **values)
            .on_conflict_do_nothing(index_elements=["pipeline_id", "due_at"])
            .returning(PipelineRun.id)
        )
        run_id: int | None = transaction.scalar(made)
        return run_id

    return database.write(work)


_OPEN = and_(PipelineRun.finished_at.is_(None), PipelineRun.due_at.is_not(None))  # that workers continue
_BY_HAND = and_(PipelineRun.finished_at.is_(None), PipelineRun.due_at.is_(None))


_IS_FREE = or_(PipelineRun.lease_until.is_(None), PipelineRun.lease_until < db_now())
_FREE = {"owner": None, "lease_until": None}  # the columns of a run without a holder


def _is_held(run: Run | PipelineRun) -> ColumnElement[bool]:
    """Return the condition for a run to have the fence of its holder still."""
    return and_(PipelineRun.id == run.id, PipelineRun.fence == run.fence)


def ended(state: str, reason: str | None) -> dict[str, Any]:
    """Return the columns of a run that is over. The fence rises, so that its holder can write nothing more."""
    return {
        **_FREE,
        "state": state,
        "reason": reason,
        "finished_at": db_now(),
        "fence": PipelineRun.fence + 1,
    }


def begin(database: Database, name: str, owner: str, lease_s: float) -> Run:
    """Begin a run by hand, which the caller carries out under a lease. Raises NotFound.

    An earlier run by hand whose lease lapsed has failed.
    """

    def work(transaction: Transaction) -> Run:
        row = _require(transaction, name)
        transaction.execute(_END_CUT_OFF.where(PipelineRun.pipeline_id == row.id, _IS_FREE))
        lease = {"owner": owner, "lease_until": db_now() + lease_s, "fence": 1}
        columns = {"pipeline_id": row.id, "state": "reading", "created_at": db_now()}
        run_id = insert_row(transaction, PipelineRun, **columns, **lease)
        return Run(run_id, 1, row.name, None, "reading", None)

    return database.write(work)


# These runs keep their fence, so that a command that was suspended can note its end.
_END_CUT_OFF = update(PipelineRun).where(_BY_HAND).values(state="failed", reason=CUT_OFF, finished_at=db_now())


def is_any_open(database: Database) -> bool:
    """Return True if any run is not over."""
    return database.value(_ANY_OPEN) is not None


_ANY_OPEN = select(PipelineRun.id).where(PipelineRun.finished_at.is_(None)).limit(1)


def hand_out(database: Database, *, again: bool = True) -> list[int]:
    """Return the ids of the runs that a worker has to continue, for the caller to send.

    These are due runs that wait for no earlier run, runs whose reader's lease lapsed, runs whose job a late reader
    reopened, and runs whose job has ended, unless a process writes their output. With `again`, return runs again that
    no worker has taken for a while. Runs by hand whose lease lapsed have failed.
    """
    unheard_s = HAND_AGAIN_S if again else math.inf

    def work(transaction: Transaction) -> list[int]:
        transaction.execute(_END_LAPSED)
        return sorted(transaction.scalars(_HAND_OUT, {"unheard_s": unheard_s}))

    return database.write(work)


_END_LAPSED = _END_CUT_OFF.where(PipelineRun.lease_until < db_now())
_JOB_ENDED = select(Job.id).where(Job.id == PipelineRun.job_id, Job.state.not_in(UNFINISHED)).exists()
_JOB_WAITS = select(Job.id).where(Job.id == PipelineRun.job_id, Job.state != "running").exists()  # ended, or reopened
_earlier = PipelineRun.__table__.alias().c
_IS_FIRST = ~(
    select(_earlier.id)
    .where(
        _earlier.pipeline_id == PipelineRun.pipeline_id,
        _earlier.id < PipelineRun.id,
        _earlier.finished_at.is_(None),
        _earlier.due_at.is_not(None),
    )
    .exists()
)
_HAND_OUT = (
    update(PipelineRun)
    .where(
        *(_OPEN, _IS_FREE),
        or_(PipelineRun.handed_at.is_(None), PipelineRun.handed_at < db_now() - bindparam("unheard_s")),
        or_(
            and_(PipelineRun.state == "due", _IS_FIRST),
            PipelineRun.state == "reading",
            and_(PipelineRun.state == "running", _JOB_WAITS),
        ),
    )
    .values(handed_at=db_now())
    .returning(PipelineRun.id)
)


def holds_job() -> ColumnElement[bool]:
    """Return the condition for a job, in a query over jobs, whose run has yet to write its results."""
    goes_on = or_(PipelineRun.due_at.is_not(None), PipelineRun.lease_until >= db_now())
    run = select(PipelineRun.id).where(PipelineRun.job_id == Job.id, PipelineRun.finished_at.is_(None), goes_on)
    return run.correlate(Job).exists()


def take(database: Database, run_id: int, owner: str, lease_s: float) -> Run | None:
    """Take a run under a lease. Return None if it is over, if another process holds it, or if its job goes on.

    A due run is `reading` from now on. So is a run whose job was reopened: a reader that had lost its lease added
    documents after another reader had come to the end.
    """
    may = or_(PipelineRun.state.in_(["due", "reading"]), and_(PipelineRun.state == "running", _JOB_WAITS))
    free = update(PipelineRun).where(PipelineRun.id == run_id, _IS_FREE, PipelineRun.finished_at.is_(None), may)
    values = {
        "state": case((and_(PipelineRun.state == "running", _JOB_ENDED), "running"), else_="reading"),
        "handed_at": db_now(),
        "owner": owner,
        "lease_until": db_now() + lease_s,
        "fence": PipelineRun.fence + 1,
    }
    # If the answer is lost, nobody works under this lease, and it lapses.
    fence = database.write(lambda transaction: transaction.scalar(free.values(**values).returning(PipelineRun.fence)))
    if fence is None:
        return None
    columns = (PipelineRun.id, PipelineRun.fence, PipelineRow.name)
    query = (
        select(*columns, PipelineRun.due_at, PipelineRun.state, PipelineRun.job_id)
        .join(PipelineRow, PipelineRow.id == PipelineRun.pipeline_id)
        .where(PipelineRun.id == run_id, PipelineRun.fence == fence)
    )
    row = database.row(query)
    return None if row is None else Run(*row)


def file_of(database: Database, run: Run) -> tuple[str, str]:
    """Return the path and the text of the pipeline's file as it was at the first call for this run.

    Raises LeaseLost if the run was removed with its pipeline.
    """
    latest = (
        select(PipelineRun.id, PipelineRow.path, PipelineRow.text)
        .join(PipelineRow, PipelineRow.id == PipelineRun.pipeline_id)
        .where(PipelineRun.id == run.id)
    )
    own = select(PipelineRunFile.path, PipelineRunFile.text).where(PipelineRunFile.run_id == run.id)

    def work(transaction: Transaction) -> tuple[str, str]:
        start = transaction.insert(PipelineRunFile).from_select(["run_id", "path", "text"], latest)
        transaction.execute(start.on_conflict_do_nothing())
        row = transaction.execute(own).one_or_none()
        if row is None:
            raise LeaseLost(f"run {run.id} was removed with its pipeline {run.name}")
        return row.path, row.text

    return database.write(work)


def renew(database: Database, run: Run, lease_s: float) -> bool:
    """Renew the lease of a run, also a lapsed one. Return False if another process took the run, or if it is over.

    Return True if the pipeline was removed: the job stays, so its reader goes on.
    """
    leased = update(PipelineRun).where(_is_held(run), PipelineRun.lease_until.is_not(None))
    renewed = leased.values(lease_until=db_now() + lease_s)
    if database.execute(renewed):
        return True
    return database.value(select(PipelineRun.id).where(PipelineRun.id == run.id)) is None


def let_go(database: Database, run: Run, *, at_once: bool) -> None:
    """Give a run back that its holder cannot continue. It is handed out again, `at_once` or after a while."""
    leased = update(PipelineRun).where(_is_held(run), PipelineRun.lease_until.is_not(None))
    values: dict[str, Any] = {"lease_until": db_now() - 1.0}
    if at_once:
        values["handed_at"] = None
    database.execute(leased.values(**values))


def let_go_all(database: Database, owner: str) -> None:
    """Give back the runs of a process that has died or ends."""
    held = and_(PipelineRun.owner == owner, PipelineRun.lease_until >= db_now())
    with database.read() as transaction:  # most often there is none, and a read waits for no writer
        if transaction.scalar(select(PipelineRun.id).where(held).limit(1)) is None:
            return
    database.execute(update(PipelineRun).where(held).values(lease_until=db_now() - 1.0, handed_at=None))


def note(
    database: Database, run: Run | PipelineRun, state: str, *, job_id: int | None = None, reason: str | None = None
) -> bool:
    """Note the state of a run (with its `id` and `fence`). `done` and `failed` end it, and `running` ends its lease.

    Return False if the run was over, or if another process holds it. Only a run by hand that was taken for cut off
    may end twice.
    """
    values: dict[str, Any] = {"state": state, "reason": reason}
    if job_id is not None:
        values["job_id"] = job_id
    by_hand = PipelineRun.due_at.is_(None)
    goes_on: ColumnElement[bool] = PipelineRun.finished_at.is_(None)
    if state in {"done", "failed"}:
        values |= {**_FREE, "finished_at": db_now()}
        goes_on = or_(goes_on, and_(by_hand, PipelineRun.reason == CUT_OFF))
    if state == "running":
        values["handed_at"] = None  # to be handed out as soon as its job has ended
        values |= {name: case((by_hand, getattr(PipelineRun, name)), else_=None) for name in _FREE}
    noted = update(PipelineRun).where(_is_held(run), goes_on)
    return database.execute(noted.values(**values)) > 0
