"""Reclaim shards after lapsed leases, dead processes, failed attempts and lost messages."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Double, bindparam, delete, func, or_, select, true, update

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import known_outcomes, n_chars
from docmill.storage.core.schema import (
    IS_RUNNING,
    Base,
    Job,
    Lease,
    PipelineRow,
    PipelineRun,
    Refusal,
    Shard,
    Worker,
    db_now,
)
from docmill.storage.core.specs import Outcome, Status
from docmill.storage.core.transaction import Transaction
from docmill.storage.leases.dispatch import OF_ONLY_JOB, last_dispatched
from docmill.storage.leases.outcome_upsert import put_outcomes
from docmill.storage.leases.policy import GiveUp, PlanAgain, Split, after_death, after_error, after_lapse
from docmill.storage.leases.shards import Claim, end_settled, end_shard, give_back
from docmill.storage.steps.jobs import FREE, RUNS
from docmill.storage.steps.sharding import add_planned, split, unpack

PAGE = 200
MOST_HINTS = 1_000  # found at a time
FORGOTTEN_S = 3_600.0  # without a sign of life
NOTE = "store answers"  # the row of `lease` with the time of the last note
_NEVER_FAR_AHEAD: Mapping[type[Base], tuple[ColumnElement[Any], ...]] = {
    Shard: (Shard.lease_until, Shard.not_before),
    PipelineRun: (PipelineRun.lease_until, PipelineRun.handed_at),
    PipelineRow: (PipelineRow.looked_at,),
    Lease: (Lease.until,),
    Worker: (Worker.seen_at, Worker.consumed_at),
    Refusal: (Refusal.refused_at,),
}
PARTS = 8  # notes are written at most this often during a lease


def hold(database: Database, name: str, owner: str, for_s: float) -> bool:
    """Take or renew a named duty for `for_s` seconds. Return True if `owner` has it."""

    def work(transaction: Transaction) -> bool:
        taken = transaction.insert(Lease).values(name=name, owner=owner, until=db_now() + for_s)
        put = taken.on_conflict_do_update(
            index_elements=["name"],
            set_={"owner": taken.excluded.owner, "until": taken.excluded.until},
            where=or_(Lease.owner == taken.excluded.owner, Lease.until < db_now()),
        )
        # Not the rowcount, which SQLAlchemy does not fetch for an INSERT.
        return transaction.scalar(put.returning(Lease.name)) is not None

    return database.write(work)


def let_go(database: Database, name: str, owner: str) -> None:
    """Give up a duty, so that another process can take it at once."""
    database.execute(delete(Lease).where(Lease.name == name, Lease.owner == owner))


def contact(database: Database, lease_s: float) -> float:
    """Note that the store answers, and return its time.

    Leases lapse by the store's clock. While the store is out of reach, or all machines are suspended, workers cannot
    renew them. So after a gap of half a lease in these notes every lease starts anew. Workers renew a lease six times
    while it lasts, so a shorter gap lets none lapse. A clock that stepped forwards looks the same. If it stepped
    backwards, no lease, delay or sign of life stays further ahead than a lease.
    """

    def work(transaction: Transaction) -> float:
        note = transaction.execute(transaction.for_update(_LAST_NOTE)).one_or_none()
        now: float = transaction.read_clock() if note is None else note.now
        gap_s = lease_s if note is None else now - note.until
        if abs(gap_s) > lease_s / 2:
            held = update(Shard).where(IS_RUNNING, Shard.lease_until < now + lease_s)
            transaction.execute(held.values(lease_until=now + lease_s))
        if gap_s < -lease_s / 2:
            for table, columns in _NEVER_FAR_AHEAD.items():
                for column in columns:
                    ahead = update(table).where(column > now + lease_s)
                    transaction.execute(ahead.values({column: now + lease_s}))
        if gap_s > lease_s / PARTS or gap_s < -lease_s / 2:
            noted = transaction.insert(Lease).values(name=NOTE, owner="", until=now)
            transaction.execute(noted.on_conflict_do_update(index_elements=["name"], set_={"until": now}))
        return now

    return database.write(work)


_LAST_NOTE = select(Lease.until, db_now().label("now")).where(Lease.name == NOTE)


def reclaim(
    database: Database, owner: str | None = None, *, seen_to_die: bool = True, before: float | None = None
) -> int:
    """Reclaim the shards of the dead process `owner`, or all whose lease lapsed. Return their number.

    Shards become suspects only if a supervisor saw their process die. If no one did, or the lease lapsed, the process
    may have been stopped while the store was away. With `before`, only leases that lapsed before that time are
    reclaimed (see `contact`).
    """
    total = 0
    while True:
        n = database.write(lambda transaction: _reclaim_page(transaction, owner, before, seen_to_die=seen_to_die))
        total += n
        if n < PAGE:
            return total


def release_owner(database: Database, owner: str) -> int:
    """Release all shards of a process that was stopped on purpose. No attempt is counted; none becomes a suspect."""

    def work(transaction: Transaction) -> int:
        held = update(Shard).where(IS_RUNNING, Shard.owner == owner)
        return transaction.execute(held.values(attempt=Shard.attempt - 1, **FREE)).rowcount

    return database.write(work)


def _reclaim_page(transaction: Transaction, owner: str | None, before: float | None, *, seen_to_die: bool) -> int:
    query = transaction.for_update(_LAPSED if owner is None else _HELD, skip_locked=True)
    rows = [Shard.of(row) for row in transaction.execute(query, {"before": before, "holder": owner})]
    for held in rows:
        row = _end_kept(transaction, held)
        if row is None:
            continue
        if owner is not None and seen_to_die:
            _apply(transaction, row, after_death(n_contents=row.n_contents, suspect=row.suspect))
            continue
        lapses = row.lapses + 1
        transaction.execute(update(Shard).where(Shard.id == row.id).values(lapses=lapses, attempt=Shard.attempt - 1))
        decision = after_lapse(n_contents=row.n_contents, suspect=row.suspect, lapses=lapses)
        _apply(transaction, row, decision, lapses=lapses)
    return len(rows)


_RUNNING = select(Shard).where(IS_RUNNING).limit(PAGE)
_LAPSED = _RUNNING.where(Shard.lease_until < func.coalesce(bindparam("before", type_=Double), db_now()))
_HELD = _RUNNING.where(Shard.owner == bindparam("holder"))


def _end_kept(transaction: Transaction, held: Shard) -> Shard | None:
    """End a running shard as far as its holder kept outcomes. Return the rest of it; None if that is nothing."""
    contents = unpack(held.contents)
    known = known_outcomes(transaction, held.spec_id, contents)
    # A retry computes again what failed.
    settled = {key for key, outcome in known.items() if not held.redo or outcome.status != Status.FAILED}
    rest = end_settled(transaction, held.id, {*contents} - settled)
    if not rest:
        transaction.execute(update(Shard).where(Shard.id == held.id).values(fence=Shard.fence + 1, owner=None))
        return None
    return Shard.of(transaction.execute(select(Shard).where(Shard.id == held.id)).one()) if settled else held


def failed_attempt(database: Database, claim: Claim, reason: str) -> None:
    """Record a failure that no document caused. Does nothing if the lease was lost."""

    def work(transaction: Transaction) -> None:
        query = select(Shard).where(Shard.id == claim.shard_id)
        locked = transaction.execute(transaction.for_update(query)).one_or_none()
        row = None if locked is None else Shard.of(locked)
        if row is not None and claim.holds(row):
            decision = after_error(attempt=row.attempt, suspect=row.suspect, reason=reason)
            _apply(transaction, row, decision)

    database.write(work)


def _apply(
    transaction: Transaction, shard: Shard, decision: PlanAgain | Split | GiveUp, *, lapses: int | None = None
) -> None:
    """Carry out a decision of `policy`; `lapses` are given after a lapsed lease, which makes no suspects."""
    if isinstance(decision, PlanAgain):
        # Jitter: shards whose leases lapsed together should not be dispatched together again.
        delay_s = decision.delay_s if lapses is None else decision.delay_s * random.random()  # noqa: S311 - jitter
        give_back(transaction, shard.id, suspect=decision.suspect, not_before=db_now() + delay_s)
    elif isinstance(decision, Split):
        counts = (
            {"suspect": 1, "lapses": shard.lapses} if lapses is None else {"suspect": shard.suspect, "lapses": lapses}
        )
        _split(transaction, shard, counts)
    else:
        _give_up(transaction, shard, decision)


def _split(transaction: Transaction, shard: Shard, counts: Mapping[str, int]) -> None:
    sizes = n_chars(transaction, unpack(shard.contents))
    contents = [content_id for content_id in unpack(shard.contents) if content_id in sizes]  # others were removed
    same = {name: getattr(shard, name) for name in ("job_id", "step", "spec_id", "lane", "redo")}
    add_planned(transaction, split(contents), sizes, same | {**counts})
    transaction.execute(
        update(Shard)
        .where(Shard.id == shard.id)
        .values(state="split", n_contents=0, n_chars=0, fence=Shard.fence + 1, owner=None, lease_until=None)
    )


def _give_up(transaction: Transaction, shard: Shard, decision: GiveUp) -> None:
    contents = unpack(shard.contents)
    failures = [
        Outcome(content_id, Status.FAILED, reason=decision.reason, reason_class=decision.reason_class)
        for content_id in contents
    ]
    written = put_outcomes(transaction, shard.spec_id, failures, None, redo=shard.redo)
    transaction.execute(update(Shard).where(Shard.id == shard.id).values(fence=Shard.fence + 1, owner=None))
    end_shard(transaction, shard.id, shard.spec_id, contents, written=written)


def lost_hints(
    database: Database, lane: str, *, queue_is_empty: bool, grace_s: float, only_job: int | None = None
) -> list[int]:
    """Mark queued shards whose message was lost as dispatched now. Return their ids, for the caller to publish again.

    A message counts as lost if its shard is still queued after `grace_s` although the lane's queue is empty, or
    although a shard that was dispatched later has been claimed. If a shard was dispatched in the future, the clock
    went back, and its message counts as lost, too.
    """

    def work(transaction: Transaction) -> list[int]:
        claimed = () if queue_is_empty else ("running", "done")
        last_claimed = max((last_dispatched(transaction, lane, state) for state in claimed), default=None)
        passed_by = true() if last_claimed is None else Shard.dispatched_at < last_claimed
        is_overdue = or_(Shard.dispatched_at < db_now() - grace_s, Shard.dispatched_at > db_now())
        lost = (
            select(Shard.id)
            .join(Job, Job.id == Shard.job_id)
            .where(
                Shard.lane == lane,
                Shard.state == "queued",
                is_overdue,
                passed_by,
                RUNS,
                OF_ONLY_JOB,
            )
            .order_by(Shard.dispatched_at)
            .limit(MOST_HINTS)
        )
        again = transaction.execute(
            update(Shard)
            .where(Shard.id.in_(lost), Shard.state == "queued")
            .values(dispatched_at=db_now())
            .returning(Shard.id),
            {"only_job": only_job},
        )
        return sorted(row.id for row in again)

    return database.write(work)


def forget_workers(database: Database) -> int:
    """Delete workers that were silent for `FORGOTTEN_S`, and refusals as old. Return the number of workers."""

    def work(transaction: Transaction) -> int:
        transaction.execute(_OLD_REFUSALS)
        return transaction.execute(_SILENT_WORKERS).rowcount

    return database.write(work)


_OLD_REFUSALS = delete(Refusal).where(Refusal.refused_at < db_now() - FORGOTTEN_S)
_SILENT_WORKERS = delete(Worker).where(Worker.seen_at < db_now() - FORGOTTEN_S)
