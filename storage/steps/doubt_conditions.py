"""Doubts in SQL, and the choice between the two outcomes of a content."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import reduce
from operator import add
from types import MappingProxyType

from sqlalchemy import ColumnElement, Double, FromClause, and_, case, cast, false, func, literal, or_, true

from docmill.storage.core.doubts import FAILED, Doubt
from docmill.storage.core.number_bounds import RISK, Bound
from docmill.storage.core.outcomes import DOUBTFUL
from docmill.storage.core.risk import FLAG, MOST_RATIO, MOST_TOKENS, RiskModel
from docmill.storage.steps.flag_conditions import as_text, condition, is_beyond


def doubted(doubt: Doubt, outcome: FromClause) -> ColumnElement[bool]:
    """Return the condition that an outcome is doubted; it is never NULL."""
    flags = func.coalesce(as_text(outcome.c.flags), "")
    carried = [condition(doubt.flagged, flags)] if doubt.flags else []
    holds = or_(false(), *carried, *(_beyond(bound, doubt, outcome) for bound in doubt.bounds))
    done = and_(func.coalesce(outcome.c.status, "") == "done", holds)
    return or_(done, _failed(outcome)) if doubt.failed else done


def is_better(second: FromClause, first: FromClause) -> ColumnElement[bool]:
    """Return the condition that the better model's outcome is the result (`storage.core.doubts.is_better`)."""
    done = func.coalesce(second.c.status, "") == "done"
    return and_(done, or_(_failed(first), _doubtful_ones(second) <= _doubtful_ones(first)))


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


# The numbers of `storage.core.risk.NUMBERS` that are no columns.
_NUMBERS: Mapping[str, Callable[[FromClause], ColumnElement[float]]] = MappingProxyType(
    {
        "tokens_in": lambda outcome: _at_most(cast(outcome.c.tokens_in, Double), MOST_TOKENS),
        "tokens_out_per_in": _ratio,
    }
)


def _feature(name: str, outcome: FromClause) -> ColumnElement[float]:
    """Return a feature of `storage.core.risk`; NULL if it is not known."""
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
