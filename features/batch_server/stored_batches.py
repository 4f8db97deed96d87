"""Batches of the clients of `docmill serve`: their statuses and leases, and the files that they need.

The server that works on a batch holds a lease on it, and each change of its status is one conditional update.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, ForeignKey, Index, UniqueConstraint, and_, delete, func, or_, select, update

from docmill.features.batch_server import keys
from docmill.features.batch_server.keys import ApiKey, Entry, Refused
from docmill.features.batch_server.stored_files import ApiFile, FileWriter
from docmill.storage.core.database import Database
from docmill.storage.core.schema import Job, JobKey, Json, ShardCount, Step, column, db_now, partial_index
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import LeaseLost
from docmill.storage.steps import budgets, jobs
from docmill.storage.steps.jobs import UNFINISHED
from docmill.storage.steps.sharding import OPEN_SHARDS

VALIDATING, IN_PROGRESS, FINALIZING, CANCELLING = "validating", "in_progress", "finalizing", "cancelling"
COMPLETED, FAILED, EXPIRED, CANCELLED = "completed", "failed", "expired", "cancelled"
OPEN = (VALIDATING, IN_PROGRESS, FINALIZING, CANCELLING)
UNFINISHED_UPLOAD_S = 24 * 3600.0
COST_LIMIT = "cost_limit_reached"
KEY_AT_LIMIT = "the batches of your key have reached its limit of costs; ask the operator of this server to raise it"
BATCH_AT_LIMIT = (
    'the batch has reached its "max_cost"; cancel it, which keeps the answers so far, and create another with a '
    "higher one: requests that are computed cost nothing again"
)
MAX_COST = "max_cost"  # in the metadata
MOST_LOOKED_AT = 1_000  # batches at a time
LEASE_S = 15.0  # at most: a restarted server soon continues the batches that it held


class ApiBatch(Entry):
    """A batch, with the fields that clients see. `times` has the time at which it got each status.

    `plan` is what its lines were read with, and for each set of parameters in the order of their first lines a job
    or the reason against it (`clerk`). `ends_as` is the status after finalizing. `owner` has the lease.
    """

    __tablename__ = "api_batch"
    path, noun = "/v1/batches", "batch"
    id = column(str, primary_key=True)
    key = column(str, ForeignKey("api_key.name"))
    idempotency_key = column(str, nullable=True)
    status = column(str)
    endpoint = column(str)
    input_file_id = column(str)  # no foreign key: the file may be deleted after the batch
    completion_window = column(str)
    labels = column(Json, nullable=True)  # the metadata
    times = column(Json)
    created_at = column(float)
    expires_at = column(float)
    weight = column(int, default=1)
    plan = column(Json, nullable=True)
    errors = column(Json, nullable=True)
    n_lines = column(int)
    n_requests = column(int, default=0)
    n_completed = column(int, default=0)
    n_failed = column(int, default=0)
    output_file_id = column(str, nullable=True)
    error_file_id = column(str, nullable=True)
    ends_as = column(str, default=COMPLETED)
    owner = column(str, nullable=True)
    lease_until = column(float, nullable=True)

    __table_args__ = (
        Index("ix_api_batch_key_created_at_id", "key", "created_at", "id"),
        UniqueConstraint("key", "idempotency_key"),
        partial_index(
            "ix_api_batch_open",
            "created_at",
            where="status IN ('validating', 'in_progress', 'finalizing', 'cancelling')",
        ),
    )

    is_expired: bool

    @property
    def max_cost(self) -> float | None:
        """The limit of its costs, which its client writes into the metadata."""
        text = (self.labels or {}).get(MAX_COST)
        return None if text is None else float(text)

    @property
    def jobs(self) -> list[int]:
        """The numbers of its jobs."""
        return [call["job"] for call in (self.plan or {}).get("calls", ()) if "job" in call]


IS_FREE = or_(
    ApiBatch.lease_until.is_(None),
    ApiBatch.lease_until < db_now(),
    ApiBatch.lease_until > db_now() + 2 * LEASE_S,  # the database's clock was set back
)
IS_EXPIRED = (ApiBatch.expires_at < db_now()).label("is_expired")


def create_batch(
    database: Database, key: ApiKey, arguments: Mapping[str, Any], window_s: float, idempotency_key: str | None
) -> ApiBatch:
    """Store a new batch, or return the batch that an earlier request with the idempotency key made.

    `arguments` are columns of the batch. Raises Refused.
    """
    batch_id = keys.new_id("batch_")

    def work(transaction: Transaction) -> str:
        earlier = keys.find_earlier(transaction, ApiBatch, key, idempotency_key, arguments)
        if earlier is not None:
            return earlier.id
        if budgets.read_reached(transaction, [keys.budget_of(key.name)]):
            raise Refused(KEY_AT_LIMIT, COST_LIMIT)
        now = transaction.read_clock()
        row = transaction.insert(ApiBatch).values(
            id=batch_id,
            key=key.name,
            idempotency_key=idempotency_key,
            status=VALIDATING,
            times={},
            created_at=now,
            expires_at=now + window_s,
            weight=key.weight,
            **arguments,
        )
        transaction.execute(row.on_conflict_do_nothing())  # it is there if only the answer of the commit was lost
        of_key = select(func.sum(ApiBatch.n_lines)).where(ApiBatch.key == key.name, ApiBatch.status.in_(OPEN))
        n_open = int(transaction.scalar(of_key) or 0)
        if key.max_requests is not None and n_open > key.max_requests:
            raise Refused(
                f"your key may have {key.max_requests:,} open requests, and with this batch it would have {n_open:,}"
                "; wait until a batch ends",
                "request_limit_exceeded",
            )
        return batch_id

    return keys.require(database, ApiBatch, key, database.write(work))


def describe_limits(database: Database, batch: ApiBatch) -> list[dict[str, Any]]:
    """Return an error for each cost limit that a batch in progress has reached, its own or its key's."""
    reasons = {batch.id: BATCH_AT_LIMIT, keys.budget_of(batch.key): KEY_AT_LIMIT}
    with database.read() as transaction:
        reached = budgets.read_reached(transaction, reasons)
    sentences = [f"{reason[0].upper()}{reason[1:]}." for name, reason in reasons.items() if name in reached]
    return [{"code": COST_LIMIT, "line": None, "message": sentence, "param": None} for sentence in sentences]


def cancel_batch(database: Database, key: ApiKey, batch_id: str) -> ApiBatch:
    """Begin to cancel a batch. Raises Refused if it has ended, or is about to end."""
    changed = database.write(
        lambda transaction: move(
            transaction, batch_id, CANCELLING, (VALIDATING, IN_PROGRESS), ApiBatch.key == key.name
        )
    )
    batch = keys.require(database, ApiBatch, key, batch_id)
    if not changed and batch.status not in {CANCELLING, CANCELLED}:
        raise Refused(f"the batch is {batch.status} and cannot be cancelled any more; read its files", "batch_ended")
    return batch


def move(
    transaction: Transaction,
    batch_id: str,
    status: str,
    before: Collection[str],
    condition: ColumnElement[bool],
    **values: Any,
) -> bool:
    """Give a batch another status. Return False if its status is not one of `before`."""
    there = select(ApiBatch.times, db_now().label("now")).where(
        ApiBatch.id == batch_id, ApiBatch.status.in_(before), condition
    )
    row = transaction.execute(transaction.for_update(there)).one_or_none()
    if row is None:
        return False
    changed = {"status": status, "times": {**row.times, status: row.now}, **values}
    transaction.execute(update(ApiBatch).where(ApiBatch.id == batch_id).values(**changed))
    return True


def find_due(database: Database) -> list[str]:
    """Return the ids of free batches that a clerk can continue, in random order, batches to validate last.

    A validation may fail and be repeated for a long time. Jobs without open shards are ended here, since workers end
    them later.
    """
    query = select(ApiBatch.id, ApiBatch.status, ApiBatch.plan, IS_EXPIRED)
    query = query.where(ApiBatch.status.in_(OPEN), IS_FREE)
    with database.read() as transaction:
        rows = transaction.execute(query.order_by(func.random()).limit(MOST_LOOKED_AT))  # so each has its turn
        batches = [ApiBatch.of(row) for row in rows]
        ids = [job for batch in batches for job in batch.jobs]
        going_on = {*transaction.scalars(select(Job.id).where(Job.id.in_(ids), Job.state.in_(UNFINISHED)))}
        is_open = and_(ShardCount.job_id.in_(going_on), ShardCount.state.in_(OPEN_SHARDS))
        computing = select(ShardCount.job_id).where(is_open).group_by(ShardCount.job_id)
        over = going_on.difference(transaction.scalars(computing.having(func.sum(ShardCount.n) > 0)))
    going_on -= {job_id for job_id in over if jobs.finish(database, job_id)}
    return [
        batch.id
        for batch in sorted(batches, key=lambda batch: batch.status == VALIDATING)
        if batch.status != IN_PROGRESS or batch.is_expired or going_on.isdisjoint(batch.jobs)
    ]


def hold(database: Database, batch_id: str, owner: str, lease_s: float) -> ApiBatch | None:
    """Take the lease of a free batch, and return the batch with `is_expired`; None if another clerk was first."""
    free = or_(IS_FREE, ApiBatch.owner == owner)
    taken = update(ApiBatch).where(ApiBatch.id == batch_id, ApiBatch.status.in_(OPEN), free)
    held = taken.values(owner=owner, lease_until=db_now() + lease_s).returning(ApiBatch.__table__, IS_EXPIRED)
    row = database.write(lambda transaction: transaction.execute(held).one_or_none())
    return None if row is None else ApiBatch.of(row)


def is_computed(database: Database, batch: ApiBatch) -> bool:
    """Return True if all jobs of a batch have ended."""
    with database.read() as transaction:
        going_on = select(Job.id).where(Job.id.in_(batch.jobs), Job.state.in_(UNFINISHED)).limit(1)
        return transaction.scalar(going_on) is None


def renew(database: Database, batch: ApiBatch, owner: str, lease_s: float) -> bool:
    """Renew the lease of a batch. Return False if it was lost, or if the batch has another status now."""
    ours = update(ApiBatch).where(ApiBatch.id == batch.id, ApiBatch.owner == owner, ApiBatch.status == batch.status)
    kept = ours.values(lease_until=db_now() + lease_s)
    return database.execute(kept) > 0


def give_back(database: Database, batch_id: str, owner: str) -> None:
    """Give up the lease of a batch, so that others can take it at once."""
    free = update(ApiBatch).where(ApiBatch.id == batch_id, ApiBatch.owner == owner).values(lease_until=None)
    database.execute(free)


def advance(
    database: Database, batch: ApiBatch, owner: str, status: str, files: Collection[FileWriter] = (), **values: Any
) -> None:
    """Give a held batch its next status, and show its files in the same transaction. Raises LeaseLost."""

    def work(transaction: Transaction) -> bool:
        if not move(transaction, batch.id, status, (batch.status,), ApiBatch.owner == owner, **values):
            return False
        for file in files:
            file.publish(transaction)
        return True

    if not database.write(work):
        raise LeaseLost(f"{batch.id} was taken over by another, or cancelled")


def find_input(database: Database, batch: ApiBatch) -> ApiFile:
    """Return the input file of a batch. Raises Refused if it was deleted."""
    row = database.row(select(ApiFile).where(ApiFile.id == batch.input_file_id))
    if row is None:
        raise Refused(f"the input file {batch.input_file_id} is gone; upload it again", "no_input_file")
    return ApiFile.of(row)


def key_of_job(batch_id: str, number: int) -> str:
    """Return the idempotency key of a batch's job for its set of parameters with this number."""
    return f"{batch_id}#{number}"


def find_jobs(database: Database, batch_id: str, most: int) -> list[int]:
    """Return the jobs of a batch, even while it is validated. It has at most so many."""
    keys = [key_of_job(batch_id, number) for number in range(1, most + 1)]
    return list(database.values(select(JobKey.job_id).where(JobKey.key.in_(keys)).order_by(JobKey.job_id)))


def count_requests(database: Database, batch: ApiBatch) -> tuple[int, int]:
    """Return the numbers of completed and of failed requests of a batch so far.

    While the batch is in progress, they are proportional to its texts, since equal requests are one text.
    """
    if batch.status not in {IN_PROGRESS, CANCELLING, FINALIZING} or not batch.jobs:
        return batch.n_completed, batch.n_failed
    of_jobs = and_(ShardCount.job_id.in_(batch.jobs), ShardCount.state != "split")
    sums = (func.sum(count) for count in (ShardCount.n_done, ShardCount.n_failed, ShardCount.n_contents))
    before = (func.sum(count) for count in (Step.n_prior_done, Step.n_prior_failed))
    with database.read() as transaction:
        shards = transaction.execute(select(*sums).where(of_jobs)).one()
        prior = transaction.execute(select(*before).where(Step.job_id.in_(batch.jobs))).one()
    done, failed, texts, prior_done, prior_failed = (int(n or 0) for n in (*shards, *prior))
    total = max(1, texts + prior_done + prior_failed)
    n_requests = batch.n_requests - batch.n_failed  # without refused requests
    return n_requests * (done + prior_done) // total, batch.n_failed + n_requests * (failed + prior_failed) // total


def delete_file(database: Database, key: ApiKey, file_id: str) -> None:
    """Remove a file of a key. Raises Refused if there is none, or if an open batch needs it."""
    keys.require(database, ApiFile, key, file_id)
    database.write(partial(_delete_file, key.name, file_id))


def delete_files(database: Database, entry_id: str) -> list[str]:
    """Remove a file, or all files of a batch, whatever their key. Return the files' ids.

    Raises Refused if there is no such file, or if an open batch needs one.
    """
    of_batch = or_(
        *(ApiFile.id == name for name in (ApiBatch.input_file_id, ApiBatch.output_file_id, ApiBatch.error_file_id))
    )
    its_files = select(ApiBatch.id).where(ApiBatch.id == entry_id, of_batch).exists()
    query = select(ApiFile.id, ApiFile.key).where(or_(ApiFile.id == entry_id, its_files)).order_by(ApiFile.created_at)
    files = database.rows(query)
    if not files:
        raise Refused(f"there is no file {entry_id!r}, and no batch of this id has files", "not_found")

    def work(transaction: Transaction) -> None:
        for file in files:
            _delete_file(file.key, file.id, transaction)

    database.write(work)
    return [file.id for file in files]


def _delete_file(key: str, file_id: str, transaction: Transaction) -> None:
    keys.lock_key(transaction, key)
    needed = select(ApiBatch.id).where(ApiBatch.input_file_id == file_id, ApiBatch.status.in_(OPEN))
    if (batch := transaction.scalar(needed.limit(1))) is not None:
        raise Refused(f"{batch} still reads this file; cancel the batch, or wait for its end", "file_in_use")
    transaction.execute(delete(ApiFile).where(ApiFile.id == file_id))


def remove_old(database: Database) -> None:
    """Remove expired files that no open batch needs, and the blocks of interrupted uploads."""
    needed = select(ApiBatch.id).where(ApiBatch.input_file_id == ApiFile.id, ApiBatch.status.in_(OPEN)).exists()
    cut_off = and_(ApiFile.is_whole.is_(False), ApiFile.created_at < db_now() - UNFINISHED_UPLOAD_S)
    expired = and_(ApiFile.expires_at < db_now(), ~needed)
    ids = database.values(select(ApiFile.id).where(or_(cut_off, expired)).limit(100))
    for file_id in ids:
        database.execute(delete(ApiFile).where(ApiFile.id == file_id))
