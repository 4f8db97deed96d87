"""The shard in which a content was computed, and the process that computed it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select

from storage.core.schema import Shard, Step, Worker
from storage.core.transaction import Transaction
from storage.steps.sharding import pack
from storage.steps.steps import OpenStep

JOBS = 20  # earlier jobs that are looked through
CLOCK_S = 1.0  # a database's clock may be set back by so much within a transaction
_WIDTH = 8  # bytes of a content's id in a shard


@dataclass(frozen=True)
class Batch:
    """A shard with a content in it: the texts that one process computed together.

    `job` is another one's where the content had an outcome before. Times are seconds since 1970. `owner` names the
    process as HOST:DEVICE:ID; `pid` and `version` are known for an hour after it was last seen.
    """

    job: int
    shard: int
    state: str
    texts: int
    attempts: int
    lapses: int
    queued_at: float | None
    started_at: float | None
    finished_at: float | None
    owner: str | None
    pid: int | None = None
    version: str | None = None


def find(
    transaction: Transaction, job_id: int, step: OpenStep, content_id: int, computed_at: float | None
) -> Batch | None:
    """Return the last shard of a job's step that holds a content, or of an earlier job with the same spec.

    A shard that began after the outcome was written did not compute it. None where no shard is on record: jobs leave
    some time after their end.
    """
    own = _holding(transaction, and_(Shard.job_id == job_id, Shard.step == step.seq), content_id, computed_at)
    if own is not None:
        return _batch(transaction, own)
    earlier = (
        select(Step.job_id, Step.seq)
        .where(Step.spec_id == step.spec_id, Step.job_id != job_id)
        .order_by(Step.job_id.desc())
        .limit(JOBS)
    )
    for other in transaction.execute(earlier).all():
        of_other = and_(Shard.job_id == other.job_id, Shard.step == other.seq)
        found = _holding(transaction, of_other, content_id, computed_at)
        if found is not None:
            return _batch(transaction, found)
    return None


def _holding(
    transaction: Transaction, of_step: ColumnElement[bool], content_id: int, computed_at: float | None
) -> Any:
    wanted = pack([content_id])
    query = select(Shard.id, Shard.contents).where(of_step, Shard.state != "split").order_by(Shard.id.desc())
    if computed_at is not None:
        # Those that ran at that moment: of a large job a few of many thousand, whose contents need not be read.
        ended = or_(Shard.finished_at.is_(None), Shard.finished_at >= computed_at - CLOCK_S)
        query = query.where(Shard.started_at <= computed_at, ended)
    for row in transaction.execute(query):
        if holds(row.contents, wanted):
            return row.id
    return None


def holds(contents: bytes, wanted: bytes) -> bool:
    """Return True if a shard's contents hold an id, whose bytes may also stand across two others."""
    place = contents.find(wanted)
    while place != -1 and place % _WIDTH:
        place = contents.find(wanted, place + 1)
    return place != -1


def _batch(transaction: Transaction, shard_id: int) -> Batch:
    columns = (
        Shard.job_id,
        Shard.state,
        Shard.n_contents,
        Shard.attempt,
        Shard.lapses,
        Shard.dispatched_at,
        Shard.started_at,
        Shard.finished_at,
        Shard.owner,
    )
    row = transaction.execute(select(*columns).where(Shard.id == shard_id)).one()
    worker = transaction.execute(select(Worker.pid, Worker.version).where(Worker.id == row.owner)).one_or_none()
    return Batch(
        job=row.job_id,
        shard=shard_id,
        state=row.state,
        texts=row.n_contents,
        attempts=row.attempt,
        lapses=row.lapses,
        queued_at=row.dispatched_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        owner=row.owner,
        pid=None if worker is None else worker.pid,
        version=None if worker is None else worker.version,
    )
