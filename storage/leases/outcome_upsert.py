"""Upsert outcomes: of two outcomes of a content under one spec the first stays, unless the second is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import exc as sa_exc

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import make_vector_length
from docmill.storage.core.specs import REFUSED, Known, Outcome, make_storable
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import ValueRefused
from docmill.storage.outputs.output_types import CONFIDENCE

T = TypeVar("T")


def settle(database: Database, work: Callable[[Transaction, bool], T]) -> T:
    """Run `work` in a write transaction. Its second argument is passed on to `put_outcomes` as `one_by_one`.

    All outcomes are written in one statement first. If the database refuses a value, a second transaction writes them
    one by one, and the outcome with that value becomes a failure.
    """
    try:
        return database.write(lambda transaction: work(transaction, False))
    except ValueRefused:
        return database.write(lambda transaction: work(transaction, True))


def put_outcomes(
    transaction: Transaction,
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
    transaction.keep_contents()
    # One order everywhere, so that two shards with the same contents cannot deadlock.
    ordered = [make_storable(outcome) for outcome in sorted(outcomes, key=lambda outcome: outcome.content_id)]
    ordered = _refuse_other_lengths(transaction, spec_id, ordered)
    if not one_by_one:
        return _put(transaction, spec_id, ordered, runtime_id, redo=redo)
    known: dict[int, Known] = {}
    for outcome in ordered:
        known |= _put_one(transaction, spec_id, outcome, runtime_id, redo=redo)
    return known


def _refuse_other_lengths(transaction: Transaction, spec_id: int, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes, with a failure in place of each vector that is not as long as the spec's first one."""
    numbers = {o.content_id: _numbers(o.vector, o.data) for o in outcomes if o.vector is not None}
    if not numbers:
        return list(outcomes)
    length = make_vector_length(transaction, spec_id, next(iter(numbers.values())))
    others = {content_id for content_id, n in numbers.items() if n != length}
    return [_refuse(o, numbers[o.content_id], length) if o.content_id in others else o for o in outcomes]


def _numbers(vector: bytes, data: Mapping[str, Any] | None) -> int:
    """Return the numbers in a vector, or in each of several, for the windows of a text."""
    return int((data or {}).get("dim") or len(vector) // 4)


def _refuse(outcome: Outcome, numbers: int, length: int) -> Outcome:
    return outcome.refused(
        f"its vector has {numbers:,} numbers, and earlier ones of this model have {length:,}: the server has another "
        "model under this name. Give it a name with --revision, and embed the corpus again"
    )


def _put_one(
    transaction: Transaction,
    spec_id: int,
    outcome: Outcome,
    runtime_id: int | None,
    *,
    redo: bool,
) -> dict[int, Known]:
    try:
        with transaction.begin_nested():
            return _put(transaction, spec_id, [outcome], runtime_id, redo=redo)
    except sa_exc.DBAPIError as error:
        if not isinstance(transaction.wrap(error, ""), ValueRefused):
            raise
        refused = outcome.refused(f"{REFUSED} ({type(error.orig).__name__})")
        return _put(transaction, spec_id, [refused], runtime_id, redo=redo)


def _put(
    transaction: Transaction,
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
            **{name: getattr(outcome, name) for name in CONFIDENCE},
        }
        for outcome in outcomes
    ]
    if transaction.upsert_outcomes(rows, redo=redo) != len(outcomes):
        return {}
    return {outcome.content_id: Known(str(outcome.status), outcome.flags) for outcome in outcomes}
