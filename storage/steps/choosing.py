"""Choose the result of a step with an escalation: the outcome of its own spec, or that of the better model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVarTuple

from sqlalchemy import ColumnElement, FromClause, Select, and_, case, false, select

from docmill.storage.core.schema import OutcomeRow
from docmill.storage.core.specs import StoredOutcome
from docmill.storage.core.transaction import Transaction
from docmill.storage.steps import conditions, sql_conditions
from docmill.storage.steps.conditions import RISK, Doubt
from docmill.storage.steps.risk import COLUMNS as RISK_COLUMNS
from docmill.storage.steps.steps import OpenStep

Ts = TypeVarTuple("Ts")
OutcomeColumns = Sequence[ColumnElement[Any]]


@dataclass(frozen=True)
class Pair:
    """The two outcomes of a content at a step: by the step's own spec, and by the escalation (None if there is none).

    `is_doubted` is True if the first outcome is doubted. Only then the second one counts.
    """

    first: StoredOutcome
    second: StoredOutcome | None
    is_doubted: bool

    @property
    def second_wins(self) -> bool:
        return self.is_doubted and self.second is not None and conditions.is_better(self.second, self.first)

    @property
    def result(self) -> StoredOutcome:
        """The outcome that is the result."""
        return self.second if self.second is not None and self.second_wins else self.first

    @property
    def is_settled(self) -> bool:
        """Return False while the escalation is still to compute the content."""
        return not self.is_doubted or self.second is not None


def with_columns(columns: OutcomeColumns, further: OutcomeColumns) -> tuple[ColumnElement[Any], ...]:
    """Return the columns of outcomes, and the further columns that are not among them."""
    return (*columns, *(column for column in further if all(column is not other for other in columns)))


def chosen(
    transaction: Transaction, step: OpenStep, content_ids: Collection[int], columns: OutcomeColumns
) -> dict[int, Any]:
    """Return the results of contents at a step by content, as rows with at least these columns."""
    if step.escalation is None:
        query = select(*with_columns(columns, (OutcomeRow.content_id,))).where(OutcomeRow.spec_id == step.spec_id)
        return {row.content_id: row for row in transaction.probe(query, OutcomeRow.content_id, content_ids)}
    return {key: pair.result for key, pair in pairs(transaction, step, content_ids, columns).items()}


def pairs(
    transaction: Transaction, step: OpenStep, content_ids: Collection[int], columns: OutcomeColumns = ()
) -> dict[int, Pair]:
    """Return both outcomes of contents at a step with an escalation, by content, if there is a first outcome."""
    escalation = step.escalation
    assert escalation is not None
    known = (OutcomeRow.content_id, OutcomeRow.status, OutcomeRow.flags)
    query = select(*with_columns(columns, with_columns(known, numbers_of(escalation.doubt))))
    first = transaction.probe(query.where(OutcomeRow.spec_id == step.spec_id), OutcomeRow.content_id, content_ids)
    doubted = {row.content_id for row in first if escalation.doubt.holds(row)}
    second = transaction.probe(query.where(OutcomeRow.spec_id == escalation.spec_id), OutcomeRow.content_id, doubted)
    by_content = {row.content_id: row for row in second}
    return {row.content_id: Pair(row, by_content.get(row.content_id), row.content_id in doubted) for row in first}


def numbers_of(doubt: Doubt) -> OutcomeColumns:
    """Return the columns of outcomes whose numbers a doubt compares."""
    names = {bound.number for bound in doubt.bounds if bound.number != RISK}
    return [getattr(OutcomeRow, name) for name in sorted(names.union(RISK_COLUMNS if doubt.needs_risk else ()))]


@dataclass(frozen=True)
class Tables:
    """The tables of outcomes that a step is joined to: `result`, and two conditions on the step's escalation.

    `wins`: the result is the escalation's. `waits`: the result is doubted, and the escalation has no outcome.
    """

    result: FromClause
    wins: ColumnElement[bool] = field(default_factory=false)
    waits: ColumnElement[bool] = field(default_factory=false)


def joined(
    query: Select[*Ts], step: OpenStep, computed: ColumnElement[int], *, outer: bool = False
) -> tuple[Select[*Ts], Tables]:
    """Return a query joined to the results of a step; `computed` is the column of the contents.

    `outer` keeps the rows without a result.
    """
    name = f"step_{step.seq}"
    result = OutcomeRow.__table__.alias(name)
    if step.escalation is None:
        of_step = and_(result.c.spec_id == step.spec_id, result.c.content_id == computed)
        return query.join(result, of_step, isouter=outer), Tables(result)
    first, second = OutcomeRow.__table__.alias(f"{name}_first"), OutcomeRow.__table__.alias(f"{name}_second")
    of_first = and_(first.c.spec_id == step.spec_id, first.c.content_id == computed)
    of_second = and_(second.c.spec_id == step.escalation.spec_id, second.c.content_id == computed)
    doubted = sql_conditions.doubted(step.escalation.doubt, first)
    wins = and_(doubted, sql_conditions.is_better(second, first))
    spec_id = case((wins, step.escalation.spec_id), else_=step.spec_id)
    of_step = and_(result.c.spec_id == spec_id, result.c.content_id == computed)
    query = query.join(first, of_first, isouter=outer).join(second, of_second, isouter=True)
    query = query.join(result, of_step, isouter=outer)
    return query, Tables(result, wins, and_(doubted, second.c.status.is_(None)))
