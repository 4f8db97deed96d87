"""Orders to enqueue: stored as they arrive, then carried out under a lease, each once.

Only workers that take orders write them. An order that is over stays for a while, so that its sender can ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, case, delete, func, select, update

from storage.core import row_lease
from storage.core.clock import db_now
from storage.core.database import Database
from storage.core.schema import EnqueueOrder, Ingest, Job
from storage.core.transaction import Transaction
from storage.errors import NoSuchOrder

MOST_FAILURES = 3
MOST_TRIES = 20  # tries that ended without a note, as when a machine goes down
_PAGE = 500
_SEEN_AT_ONCE = 8
_OPEN = EnqueueOrder.finished_at.is_(None)
_FREE: dict[str, Any] = row_lease.FREE


@dataclass(frozen=True)
class Order:
    """An order that a worker has taken up, under a fence. `waited_s` is how long ago it arrived."""

    id: int
    sender_id: str
    arguments: Mapping[str, Any]
    job_id: int | None
    tries: int
    waited_s: float
    fence: int


def place(
    database: Database,
    sender_id: str,
    arguments: Mapping[str, Any],
    refused: str | None = None,
    kept_s: float | None = None,
) -> bool:
    """Store an order, or its refusal. False if the sender's id is known: the message came twice, and nothing changes.

    With `kept_s`, delete some orders that ended longer ago.
    """

    def work(transaction: Transaction) -> bool:
        values: dict[str, Any] = {"state": "waiting"}
        if refused is not None:
            values = {"state": "refused", "reason": refused, "finished_at": db_now()}
        values |= {"not_before": 0.0, "tries": 0, "failures": 0, "fence": 0, "created_at": db_now()}
        values |= transaction.own_id(EnqueueOrder)
        placed = transaction.scalar(
            transaction.insert(EnqueueOrder)
            .values(sender_id=sender_id, arguments=dict(arguments), **values)
            .on_conflict_do_nothing(index_elements=["sender_id"])
            .returning(EnqueueOrder.id)
        )
        if kept_s is not None:
            old = select(EnqueueOrder.id).where(EnqueueOrder.finished_at < db_now() - kept_s).limit(_PAGE)
            transaction.execute(delete(EnqueueOrder).where(EnqueueOrder.id.in_(old)))
        return placed is not None

    return database.write(work)


def take(database: Database, owner: str, lease_s: float) -> Order | None:
    """Take the oldest order that waits, or whose reader let its lease lapse; None where there is none."""
    due = and_(_OPEN, EnqueueOrder.not_before <= db_now())
    with database.read() as transaction:
        free = select(EnqueueOrder.id).where(due, row_lease.is_free(EnqueueOrder)).order_by(EnqueueOrder.id)
        found = list(transaction.scalars(free.limit(_SEEN_AT_ONCE)))
    for order_id in found:
        more = {"state": "reading", "tries": EnqueueOrder.tries + 1}
        fence = row_lease.take(database, EnqueueOrder, order_id, owner, lease_s, where=due, **more)
        if fence is not None:
            return _taken(database, order_id, fence)
    return None


def _taken(database: Database, order_id: int, fence: int) -> Order | None:
    of = EnqueueOrder
    columns = (of.id, of.sender_id, of.arguments, of.job_id, of.tries, (db_now() - of.created_at).label("waited_s"))
    with database.read() as transaction:
        row = transaction.execute(select(*columns).where(row_lease.is_held(of, order_id, fence))).one_or_none()
    if row is None:
        return None
    return Order(row.id, row.sender_id, row.arguments, row.job_id, row.tries, row.waited_s, fence)


def renew(database: Database, order: Order, lease_s: float) -> bool:
    """Renew the lease of an order; False if another took it, or if it was cancelled."""
    return row_lease.renew(database, EnqueueOrder, order.id, order.fence, lease_s)


def note_job(database: Database, order: Order, job_id: int) -> bool:
    """Note which job an order became, as soon as it has a number. False if the order is another's by now."""
    values: dict[str, Any] = {"job_id": job_id}
    if job_id != order.job_id:
        values["opened_at"] = db_now()
    return _change(database, order, **values)


def end(
    database: Database, order: Order, state: str, *, job_id: int | None = None, reason: str | None = None
) -> bool:
    """End an order as `done` or `refused`. False if it is another's by now, or was cancelled."""
    values: dict[str, Any] = {} if job_id is None else {"job_id": job_id}
    return _change(database, order, state=state, reason=reason, finished_at=db_now(), **values, **_FREE)


def put_off(database: Database, order: Order, reason: str, for_s: float, *, failed: bool = False) -> None:
    """Let an order wait while the hub or the store is away, or after an unexpected error (`failed`)."""
    values = {"state": "waiting", "reason": reason, "not_before": db_now() + for_s, "tries": 0, **_FREE}
    if failed:
        values["failures"] = EnqueueOrder.failures + 1
    _change(database, order, **values)
    if failed:
        database.write(lambda transaction: _refuse_failing(transaction, EnqueueOrder.id == order.id, reason))


def give_back(database: Database, order: Order) -> None:
    """Let another take an order at once: its reader stops."""
    _change(database, order, state="waiting", tries=0, **_FREE)


def _change(database: Database, order: Order, **values: Any) -> bool:
    held = update(EnqueueOrder).where(row_lease.is_held(EnqueueOrder, order.id, order.fence), _OPEN)
    return database.write(lambda transaction: transaction.execute(held.values(**values)).rowcount > 0)


def let_go_all(database: Database, owner: str, *, died: bool) -> None:
    """Free all orders of a process that ended. If it `died`, an order may be the cause: after `MOST_FAILURES` deaths
    it is refused.
    """
    held = and_(EnqueueOrder.owner == owner, _OPEN)
    with database.read() as transaction:  # most often there is none, and no need for a turn to write
        if transaction.scalar(select(EnqueueOrder.id).where(held).limit(1)) is None:
            return

    def work(transaction: Transaction) -> None:
        counted = {"failures": EnqueueOrder.failures + 1} if died else {}
        free = update(EnqueueOrder).where(held).values(state="waiting", tries=0, **counted, **_FREE)
        freed = list(transaction.scalars(free.returning(EnqueueOrder.id)))
        if died:
            reason = f"the process that read its source died, {MOST_FAILURES} times; its worker's log says more"
            _refuse_failing(transaction, EnqueueOrder.id.in_(freed), reason)

    database.write(work)


def _refuse_failing(transaction: Transaction, which: ColumnElement[bool], reason: str) -> None:
    failing = and_(which, _OPEN, EnqueueOrder.failures >= MOST_FAILURES)
    refused = {"state": "refused", "reason": reason, "finished_at": db_now()}
    transaction.execute(update(EnqueueOrder).where(failing).values(**refused))


def cancel(database: Database, sender_id: str) -> EnqueueOrder:
    """End an order that is not over, and return its row as it was before. Raises NoSuchOrder."""
    row = get(database, sender_id)
    cancelled = {"state": "cancelled", "finished_at": db_now(), "fence": EnqueueOrder.fence + 1, **_FREE}
    which = update(EnqueueOrder).where(EnqueueOrder.id == row.id, _OPEN)
    database.write(lambda transaction: transaction.execute(which.values(**cancelled)))
    return row


def get(database: Database, sender_id: str) -> EnqueueOrder:
    """Return the row of an order by its sender's id. Raises NoSuchOrder."""
    with database.read() as transaction:
        row = transaction.execute(select(EnqueueOrder).where(EnqueueOrder.sender_id == sender_id)).one_or_none()
    if row is None:
        raise NoSuchOrder(
            f"there is no order {sender_id}: no worker took it, or it ended more than DOCMILL_RETENTION_DAYS ago"
        )
    return EnqueueOrder.of(row)


def latest(database: Database, limit: int) -> list[EnqueueOrder]:
    """Return the rows of the latest orders, newest first."""
    with database.read() as transaction:
        found = transaction.execute(select(EnqueueOrder).order_by(EnqueueOrder.id.desc()).limit(limit))
        return [EnqueueOrder.of(row) for row in found]


def n_open(database: Database) -> int:
    """Return the number of orders that are stored and not over."""
    with database.read() as transaction:
        return transaction.scalar(select(func.count()).select_from(EnqueueOrder).where(_OPEN)) or 0


def standing(database: Database, order: Order) -> str | None:
    """Return the state of an order's job: reading, read, cancelled, stopped, or None if it was removed.

    A job that was read before this order came to it is "reading": its source has to be read again.
    """
    ended = Job.state.in_(["cancelled", "stopped"])
    read = and_(Ingest.state == "read", Ingest.finished_at >= EnqueueOrder.opened_at)
    how_far = case((ended, Job.state), (read, "read"), else_="reading")
    query = (
        select(how_far)
        .select_from(EnqueueOrder)
        .join(Job, Job.id == EnqueueOrder.job_id)
        .join(Ingest, Ingest.id == Job.ingest_id)
        .where(EnqueueOrder.id == order.id)
    )
    with database.read() as transaction:
        found: str | None = transaction.scalar(query)
    return found
