"""The shard in which a content was computed, and the process that computed it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, literal, or_, select, true

from docmill.storage.core.schema import Job, Shard, Step, Worker
from docmill.storage.core.transaction import Transaction
from docmill.storage.steps.sharding import pack
from docmill.storage.steps.steps import OpenStep

JOBS = 20  # earlier jobs that are looked through
COMMIT_S = 60.0  # the transaction that writes an outcome also ends its shard
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
    """Return the shard of a job's step that holds a content, or of an earlier job with the same spec.

    A shard that began after the outcome was written did not compute it. None where no shard is on record: jobs leave
    some time after their end.
    """
    transaction.look_up()
    own = select(Job.id, literal(step.seq).label("seq")).where(Job.id == job_id, _lived(computed_at))
    earlier = (
        select(Step.job_id.label("id"), Step.seq)
        .join(Job, Job.id == Step.job_id)
        .where(Step.spec_id == step.spec_id, Step.job_id != job_id, _lived(computed_at))
        .order_by(Step.job_id.desc())
        .limit(JOBS)
    )
    for jobs in (own, earlier):
        for other in transaction.execute(jobs).all():
            of_step = and_(Shard.job_id == other.id, Shard.step == other.seq, Shard.state != "split")
            found = _holding(transaction, of_step, pack([content_id]), computed_at)
            if found is not None:
                return _batch(transaction, found)
    return None


def _lived(at: float | None) -> ColumnElement[bool]:
    """Return the condition for a job to have been at work at a moment; any may have been if it is not known."""
    if at is None:
        return true()
    return and_(Job.created_at <= at + CLOCK_S, or_(Job.finished_at.is_(None), Job.finished_at >= at - CLOCK_S))


def _holding(
    transaction: Transaction, of_step: ColumnElement[bool], wanted: bytes, computed_at: float | None
) -> int | None:
    shards = select(Shard.id, Shard.contents).where(of_step)
    if computed_at is not None:
        # Those that ran at that moment: of a large job a few of many thousand, whose contents need not be read.
        ended = Shard.finished_at >= computed_at - CLOCK_S
        shards = shards.where(Shard.started_at <= computed_at)
        at_once = shards.where(Shard.finished_at.between(computed_at - CLOCK_S, computed_at + COMMIT_S))
        if (found := _first(transaction.execute(at_once.order_by(Shard.id.desc())), wanted)) is not None:
            return found
        shards = shards.where(or_(Shard.finished_at.is_(None), ended))
    shards = shards.where(transaction.place_of(wanted, Shard.contents) > 0).order_by(Shard.id.desc())
    return _first(transaction.execute(shards), wanted)


def _first(rows: Iterable[Row[*tuple[Any, ...]]], wanted: bytes) -> int | None:
    return next((row.id for row in rows if holds(row.contents, wanted)), None)


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
