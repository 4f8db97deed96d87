"""Doubts in SQL, and the choice between the two outcomes of a content."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

from sqlalchemy import ColumnElement, FromClause, and_, case, false, func, or_

from storage.core.doubts import Bound, Doubt
from storage.core.outcomes import DOUBTFUL
from storage.steps.flag_conditions import as_text, condition


def doubted(doubt: Doubt, outcome: FromClause) -> ColumnElement[bool]:
    """Return the condition that an outcome is done and doubted; it is never NULL."""
    flags = func.coalesce(as_text(outcome.c.flags), "")
    carried = [condition(doubt.flagged, flags)] if doubt.flags else []
    holds = or_(false(), *carried, *(_beyond(bound, outcome.c[bound.number]) for bound in doubt.bounds))
    return and_(func.coalesce(outcome.c.status, "") == "done", holds)


def is_better(second: FromClause, first: FromClause) -> ColumnElement[bool]:
    """Return the condition that the better model's outcome is the result (`storage.core.doubts.is_better`)."""
    done = func.coalesce(second.c.status, "") == "done"
    return and_(done, _doubtful_ones(second) <= _doubtful_ones(first))


def _beyond(bound: Bound, number: ColumnElement[Any]) -> ColumnElement[bool]:
    return and_(number.is_not(None), number < bound.value if bound.is_below else number > bound.value)


def _doubtful_ones(outcome: FromClause) -> ColumnElement[int]:
    """Return the number of doubtful flags of an outcome."""
    flags = func.coalesce(as_text(outcome.c.flags), "")
    ones: list[ColumnElement[int]] = [
        case((flags.contains(f'"{name}"', autoescape=True), 1), else_=0) for name in sorted(DOUBTFUL)
    ]
    return reduce(add, ones)
