"""Fold the finished shards of ended jobs: one row for each step keeps their sums, so every count stays.

A folded shard is done and has no contents. Nothing but `explain` and the chart of a report reads single shards of an
ended job.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, select, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Job, Shard
from docmill.storage.core.tables import db_now
from docmill.storage.core.transaction import Transaction, columns_of
from docmill.storage.deletion.budget import Budget
from docmill.storage.deletion.retention import ended_before
from docmill.storage.steps.jobs import UNFINISHED
from docmill.storage.steps.sharding import UNTOUCHED

PAGE = 1_000  # shards folded in one transaction
_SUMS = (
    *(Shard.n_contents, Shard.n_chars, Shard.n_done, Shard.n_failed, Shard.n_skipped, Shard.n_truncated),
    *(Shard.n_doubtful, Shard.tokens_in, Shard.tokens_out),
)


def is_finished() -> ColumnElement[bool]:
    """Return the condition for a finished shard that is not folded yet."""
    return and_(Shard.state.in_(["done", "split"]), Shard.contents != b"")


def fold_shards(database: Database, older_than_s: float, budget: Budget | None = None) -> int:
    """Fold the finished shards of jobs that ended before then. Return the number of rows that went.

    A page of one step is one transaction, and the next call continues an interrupted one.
    """
    budget = budget or Budget()
    has_some = select(Shard.id).where(Shard.job_id == Job.id, is_finished()).exists()
    with database.read() as transaction:
        jobs = transaction.scalars(select(Job.id).where(ended_before(older_than_s), has_some).order_by(Job.id)).all()
    total = 0
    for job_id in jobs:
        while not budget.is_spent():
            size = budget.page(PAGE)
            gone = database.write(lambda transaction, job=job_id, size=size: _fold(transaction, job, size))  # type: ignore[misc]
            if gone is None:
                break
            total += budget.spend(gone)
    return total


def _fold(transaction: Transaction, job_id: int, size: int) -> int | None:
    """Fold the next page of a job's shards, of one step. Return the rows that went; None if nothing is left."""
    transaction.keep_last_ids(Shard)
    ended = update(Job).where(Job.id == job_id, Job.state.not_in(UNFINISHED)).values(folded_at=db_now())
    if transaction.execute(ended).rowcount == 0:  # it was retried, or is gone
        return None
    mine = Shard.job_id == job_id
    step = transaction.scalar(select(func.min(Shard.step)).where(mine, is_finished()))
    if step is None:
        return None
    of_step = and_(mine, Shard.step == step)
    folded = transaction.scalars(select(Shard.id).where(of_step, Shard.state == "done", Shard.contents == b""))
    page = transaction.scalars(select(Shard.id).where(of_step, is_finished()).order_by(Shard.id).limit(size))
    ids = [*folded, *page]
    row = _sum(transaction, ids)
    transaction.execute(delete(Shard).where(Shard.id.in_(ids)))
    # A row that is added is no work that was done: those who count work look at what grows.
    transaction.load(Shard, columns_of([row]))
    return len(ids) - 1


def _sum(transaction: Transaction, ids: list[int]) -> dict[str, Any]:
    """Return the row that has the sums of these shards, and their first start and last end."""
    same = (Shard.job_id, Shard.step, Shard.spec_id, Shard.lane)
    times = (func.min(Shard.started_at).label("started_at"), func.max(Shard.finished_at).label("finished_at"))
    sums = tuple(func.sum(column).label(column.key) for column in _SUMS)
    found = transaction.execute(select(*same, *times, *sums).where(Shard.id.in_(ids)).group_by(*same)).one()
    counts = {column.key: int(getattr(found, column.key)) for column in _SUMS}
    kept = {name: getattr(found, name) for name in ("job_id", "step", "spec_id", "lane", "started_at", "finished_at")}
    return UNTOUCHED | kept | counts | {"contents": b"", "state": "done", "redo": False}
