"""Conditions on results and documents in SQL, and the result of a step with an escalation.

Flags are stored as a JSON list of texts. A step with an escalation has two outcomes of a content: that of its own
spec, and that of the better model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from types import MappingProxyType
from typing import Any, TypeVarTuple

from sqlalchemy import (
    ColumnElement,
    Double,
    FromClause,
    Select,
    Text,
    and_,
    case,
    cast,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    true,
)

from docmill.storage.core.schema import Document, OutcomeRow
from docmill.storage.core.specs import DOUBTFUL, StoredOutcome
from docmill.storage.core.transaction import Transaction
from docmill.storage.steps import conditions
from docmill.storage.steps.conditions import FAILED, RISK, Bound, Doubt, Flagged, find_filter
from docmill.storage.steps.risk import COLUMNS as RISK_COLUMNS
from docmill.storage.steps.risk import FLAG, MOST_RATIO, MOST_TOKENS, RiskModel
from docmill.storage.steps.steps import OpenStep

Ts = TypeVarTuple("Ts")
OutcomeColumns = Sequence[ColumnElement[Any]]


def as_text(flags: ColumnElement[Any]) -> ColumnElement[str]:
    """Return a column of flags as the text of its JSON."""
    return cast(flags, Text)


def condition(
    flagged: Flagged, *written: ColumnElement[str], outcomes: Sequence[FromClause] = ()
) -> ColumnElement[bool]:
    """Return the condition that several columns of flags, as text and never NULL, meet together.

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
    numbers = sorted({bound.number for bound in flagged.bounds})
    return [OutcomeRow.flags, *(getattr(OutcomeRow, number) for number in numbers)]


def doubted(doubt: Doubt, outcome: FromClause) -> ColumnElement[bool]:
    """Return the condition that an outcome is doubted; it is never NULL."""
    flags = func.coalesce(as_text(outcome.c.flags), "")
    holds = or_(condition(doubt.flagged, flags), *(_beyond(bound, doubt, outcome) for bound in doubt.bounds))
    done = and_(func.coalesce(outcome.c.status, "") == "done", holds)
    return or_(done, _failed(outcome)) if doubt.failed else done


def is_better(second: FromClause, first: FromClause) -> ColumnElement[bool]:
    """Return the condition that the better model's outcome is the result (`storage.steps.conditions.is_better`)."""
    done = func.coalesce(second.c.status, "") == "done"
    return and_(done, or_(_failed(first), _doubtful_ones(second) <= _doubtful_ones(first)))


def spec_of_result(step: OpenStep, first: FromClause, second: FromClause) -> ColumnElement[int]:
    """Return the spec whose outcome is the result of a step with an escalation. Columns of `second` may be NULL."""
    assert step.escalation is not None
    wins = and_(doubted(step.escalation.doubt, first), is_better(second, first))
    return case((wins, step.escalation.spec_id), else_=step.spec_id)


def _failed(outcome: FromClause) -> ColumnElement[bool]:
    return func.coalesce(outcome.c.status, "") == FAILED


def _beyond(bound: Bound, doubt: Doubt, outcome: FromClause) -> ColumnElement[bool]:
    if math.isinf(bound.limit):  # a risk below 1 or above 0: all have one
        return true() if bound.is_below is (bound.limit > 0) else false()
    number = outcome.c[bound.number] if bound.number != RISK else _log_odds(doubt, outcome)
    return is_beyond(bound, number)


def _log_odds(doubt: Doubt, outcome: FromClause) -> ColumnElement[float]:
    """Return the log-odds of an outcome's risk, by the operations of `RiskModel.log_odds` in their order."""
    assert doubt.risk is not None, "a job resolves the risk when it is opened"
    model: RiskModel = doubt.risk.model
    z: ColumnElement[float] = literal(model.intercept, Double)
    for feature in model.features:
        value = _feature(feature.name, outcome)
        term = literal(feature.coefficient, Double) * (value - feature.mean) / feature.scale
        z = z + func.coalesce(term, 0.0)
    return z


def _at_most(value: ColumnElement[float], most: float) -> ColumnElement[float]:
    return case((value > most, most), else_=value)


def _ratio(outcome: FromClause) -> ColumnElement[float]:
    tokens_in, tokens_out = (cast(outcome.c[name], Double) for name in ("tokens_in", "tokens_out"))
    ratio: ColumnElement[float] = tokens_out.op("/")(func.nullif(tokens_in, 0.0))
    return case((outcome.c.tokens_in > 0, _at_most(ratio, MOST_RATIO)))


# The numbers of `storage.steps.risk.NUMBERS` that are no columns.
_NUMBERS: Mapping[str, Callable[[FromClause], ColumnElement[float]]] = MappingProxyType(
    {
        "tokens_in": lambda outcome: _at_most(cast(outcome.c.tokens_in, Double), MOST_TOKENS),
        "tokens_out_per_in": _ratio,
    }
)


def _feature(name: str, outcome: FromClause) -> ColumnElement[float]:
    """Return a feature of `storage.steps.risk`; NULL if it is not known."""
    if name.startswith(FLAG):
        flag = f'"{name.removeprefix(FLAG)}"'
        carried = func.coalesce(as_text(outcome.c.flags), "").contains(flag, autoescape=True)
        return case((carried, literal(1.0, Double)), else_=literal(0.0, Double))
    return _NUMBERS[name](outcome) if name in _NUMBERS else outcome.c[name]


def _doubtful_ones(outcome: FromClause) -> ColumnElement[int]:
    """Return the number of doubtful flags of an outcome."""
    flags = func.coalesce(as_text(outcome.c.flags), "")
    ones: list[ColumnElement[int]] = [
        case((flags.contains(f'"{name}"', autoescape=True), 1), else_=0) for name in sorted(DOUBTFUL)
    ]
    return reduce(add, ones)


def is_read(leaves_out: str | None, documents: FromClause = Document.__table__) -> ColumnElement[bool]:
    """Return the condition for documents that a step with this filter reads. None leaves out nothing.

    `documents` has the column `id` of `Document`, perhaps under another name.
    """
    return true() if leaves_out is None else not_(find_filter(leaves_out).leaves_out(documents))


def select_read(transaction: Transaction, leaves_out: str | None, own: Mapping[int, int]) -> Mapping[int, int]:
    """Return the documents, with their contents, that a step with this filter reads."""
    if leaves_out is None:
        return own
    left_out = select(Document.id).where(find_filter(leaves_out).leaves_out(Document.__table__))
    gone = {row.id for row in transaction.probe(left_out, Document.id, [*own])}
    return {key: content_id for key, content_id in own.items() if key not in gone}


@dataclass(frozen=True)
class OutcomePair:
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


def read_results(
    transaction: Transaction, step: OpenStep, content_ids: Collection[int], columns: OutcomeColumns
) -> dict[int, Any]:
    """Return the results of contents at a step by content, as rows with at least these columns."""
    if step.escalation is None:
        query = select(*with_columns(columns, (OutcomeRow.content_id,))).where(OutcomeRow.spec_id == step.spec_id)
        return {row.content_id: row for row in transaction.probe(query, OutcomeRow.content_id, content_ids)}
    return {key: pair.result for key, pair in read_pairs(transaction, step, content_ids, columns).items()}


def read_pairs(
    transaction: Transaction, step: OpenStep, content_ids: Collection[int], columns: OutcomeColumns = ()
) -> dict[int, OutcomePair]:
    """Return both outcomes of contents at a step with an escalation, by content, if there is a first outcome."""
    escalation = step.escalation
    assert escalation is not None
    query = select(*with_columns(columns, (OutcomeRow.content_id, OutcomeRow.status, OutcomeRow.flags)))
    is_doubted = doubted(escalation.doubt, OutcomeRow.__table__).label("is_doubted")
    own = query.add_columns(is_doubted).where(OutcomeRow.spec_id == step.spec_id)
    first = transaction.probe(own, OutcomeRow.content_id, content_ids)
    further = query.where(OutcomeRow.spec_id == escalation.spec_id)
    second = transaction.probe(further, OutcomeRow.content_id, [row.content_id for row in first if row.is_doubted])
    by_content = {row.content_id: row for row in second}
    return {row.content_id: OutcomePair(row, by_content.get(row.content_id), row.is_doubted) for row in first}


def numbers_of(doubt: Doubt) -> OutcomeColumns:
    """Return the columns of outcomes whose numbers a doubt compares."""
    names = {bound.number for bound in doubt.bounds if bound.number != RISK}
    return [getattr(OutcomeRow, name) for name in sorted(names.union(RISK_COLUMNS if doubt.needs_risk else ()))]


def join_results(
    query: Select[*Ts], step: OpenStep, computed: ColumnElement[int], *, outer: bool
) -> tuple[Select[*Ts], FromClause, ColumnElement[bool]]:
    """Return a query joined to the results of a step; `computed` is the column of the contents.

    Return also the table of the results, and the condition for a result to wait for the escalation. `outer` keeps the
    rows without a result.
    """
    name = f"step_{step.seq}"
    result = OutcomeRow.__table__.alias(name)
    if step.escalation is None:
        of_step = and_(result.c.spec_id == step.spec_id, result.c.content_id == computed)
        return query.join(result, of_step, isouter=outer), result, false()
    first, second = OutcomeRow.__table__.alias(f"{name}_first"), OutcomeRow.__table__.alias(f"{name}_second")
    of_first = and_(first.c.spec_id == step.spec_id, first.c.content_id == computed)
    of_second = and_(second.c.spec_id == step.escalation.spec_id, second.c.content_id == computed)
    is_doubted = doubted(step.escalation.doubt, first)
    of_step = and_(result.c.spec_id == spec_of_result(step, first, second), result.c.content_id == computed)
    query = query.join(first, of_first, isouter=outer).join(second, of_second, isouter=True)
    query = query.join(result, of_step, isouter=outer)
    return query, result, and_(is_doubted, second.c.status.is_(None))
