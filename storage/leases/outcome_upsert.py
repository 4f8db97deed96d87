"""Upsert outcomes: of two outcomes of a content under one spec the first stays, unless the second is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Connection, and_
from sqlalchemy import exc as sa_exc
from sqlalchemy.dialects import sqlite

from storage.core import advisory_locks, bulk
from storage.core.database import Database, db_now
from storage.core.get_or_create import n_chars
from storage.core.outcomes import REFUSED, TRUNCATED, Known, Outcome, storable
from storage.core.schema import OutcomeRow
from storage.errors import ValueRefused

T = TypeVar("T")


def settle(database: Database, work: Callable[[Connection, bool], T]) -> T:
    """Run `work` in a write transaction. Its second argument is passed on to `put_outcomes` as `one_by_one`.

    All outcomes are written in one statement first. If the database refuses a value, a second transaction writes them
    one by one, and the outcome with that value becomes a failure.
    """
    try:
        return database.write(lambda connection: work(connection, False))
    except ValueRefused:
        return database.write(lambda connection: work(connection, True))


def put_outcomes(
    database: Database,
    connection: Connection,
    spec_id: int,
    outcomes: Sequence[Outcome],
    runtime_id: int | None,
    *,
    redo: bool = False,
    one_by_one: bool = False,
) -> dict[int, Known]:
    """Write outcomes. The first one stays, but `done` replaces `failed` (with `redo`, anything does).

    Outcomes of contents that were removed meanwhile are left out. Return the status of each content by its id, or {}
    if an earlier outcome stayed. With `one_by_one` an outcome that the database refuses becomes a failure, and the
    others are written.
    """
    if not outcomes:
        return {}
    advisory_locks.refer(database, connection)
    # One order everywhere, so that two shards with the same contents cannot deadlock.
    ordered = [storable(outcome) for outcome in sorted(outcomes, key=lambda outcome: outcome.content_id)]
    if not one_by_one:
        return _put(database, connection, spec_id, ordered, runtime_id, redo=redo)
    known: dict[int, Known] = {}
    for outcome in ordered:
        known |= _put_one(database, connection, spec_id, outcome, runtime_id, redo=redo)
    return known


def _put_one(
    database: Database,
    connection: Connection,
    spec_id: int,
    outcome: Outcome,
    runtime_id: int | None,
    *,
    redo: bool,
) -> dict[int, Known]:
    try:
        with connection.begin_nested():
            return _put(database, connection, spec_id, [outcome], runtime_id, redo=redo)
    except sa_exc.DBAPIError as error:
        if not isinstance(database.wrap(error), ValueRefused):
            raise
        refused = outcome.refused(f"{REFUSED} ({type(error.orig).__name__})")
        return _put(database, connection, spec_id, [refused], runtime_id, redo=redo)


def _put(
    database: Database,
    connection: Connection,
    spec_id: int,
    outcomes: Sequence[Outcome],
    runtime_id: int | None,
    *,
    redo: bool,
) -> dict[int, Known]:
    rows = [
        {
            "spec_id": spec_id,
            "content_id": outcome.content_id,
            "status": str(outcome.status),
            "text": outcome.text,
            "vector": outcome.vector,
            "data": outcome.data,
            "reason": outcome.reason,
            "reason_class": None if outcome.reason_class is None else str(outcome.reason_class),
            "flags": list(outcome.flags),
            "tokens_in": outcome.tokens_in,
            "tokens_out": outcome.tokens_out,
            "runtime_id": runtime_id,
        }
        for outcome in outcomes
    ]
    if database.is_sqlite:
        stored = n_chars(connection, [outcome.content_id for outcome in outcomes])
        rows = [row for row in rows if row["content_id"] in stored]
        if not rows:
            return {}
        statement = sqlite.insert(OutcomeRow).values(created_at=db_now())
        new = statement.excluded
        better = OutcomeRow.status == "failed" if redo else and_(OutcomeRow.status == "failed", new.status == "done")
        put = statement.on_conflict_do_update(
            index_elements=["spec_id", "content_id"], set_={name: new[name] for name in _REPLACED}, where=better
        )
        n_written = connection.execute(put, rows).rowcount
        return _known(outcomes) if n_written == len(outcomes) else {}
    worse = "outcome.status = 'failed'" if redo else "outcome.status = 'failed' AND excluded.status = 'done'"
    replaced = ", ".join(f"{name} = excluded.{name}" for name in _REPLACED)
    there = "WHERE EXISTS (SELECT FROM content WHERE content.id = new.content_id)"
    conflict = f"{there} ON CONFLICT (spec_id, content_id) DO UPDATE SET {replaced} WHERE {worse}"
    database.check_keys_by_kept_plans(connection)
    n_written = bulk.insert(
        connection, OutcomeRow, bulk.columns_of(rows), conflict, {"created_at": db_now()}
    ).rowcount
    return _known(outcomes) if n_written == len(rows) else {}


def _known(outcomes: Sequence[Outcome]) -> dict[int, Known]:
    return {outcome.content_id: Known(str(outcome.status), TRUNCATED in outcome.flags) for outcome in outcomes}


_REPLACED = [column.name for column in OutcomeRow.__table__.columns if not column.primary_key]
