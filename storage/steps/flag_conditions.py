"""Conditions on results in SQL: on their flags, which are stored as a JSON list of texts, and on their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Text, and_, cast, false, not_, or_

from docmill.storage.core.flags import Flagged
from docmill.storage.core.number_bounds import Bound
from docmill.storage.core.schema import OutcomeRow


def as_text(flags: ColumnElement[Any]) -> ColumnElement[str]:
    """Return a column of flags as the text of its JSON."""
    return cast(flags, Text)


def condition(
    flagged: Flagged, *written: ColumnElement[str], outcomes: Sequence[FromClause] = ()
) -> ColumnElement[bool]:
    """Return a condition on columns of flags as text, of which none is NULL, taken together.

    `outcomes` are tables with the numbers that the condition compares; they are taken together, too.
    """
    carried = (column.contains(form, autoescape=True) for column in written for form in flagged.forms())
    beyond = (is_beyond(bound, outcome.c[bound.number]) for outcome in outcomes for bound in flagged.bounds)
    met = or_(false(), *carried, *beyond)
    return not_(met) if flagged.lacking else met


def selects(flagged: Flagged, outcome: FromClause) -> ColumnElement[bool]:
    """Return the condition that an outcome meets a condition on results."""
    return condition(flagged, as_text(outcome.c.flags), outcomes=[outcome])


def is_beyond(bound: Bound, number: ColumnElement[float]) -> ColumnElement[bool]:
    """Return the condition that a number meets a bound; it is never NULL."""
    return and_(number.is_not(None), number < bound.limit if bound.is_below else number > bound.limit)


def compared_by(flagged: Flagged) -> list[ColumnElement[Any]]:
    """Return the columns of outcomes that a condition on results compares."""
    return [OutcomeRow.flags, *(getattr(OutcomeRow, name) for name in sorted({one.number for one in flagged.bounds}))]
