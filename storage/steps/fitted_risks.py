"""The fitted risks that the escalations of a new job compare with their bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.risk import FittedRisk, RiskModel
from docmill.storage.core.schema import RiskVersion, SpecRow
from docmill.storage.core.specs import Spec
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import NoRisk
from docmill.storage.steps.steps import StepRequest


def resolved(transaction: Transaction, requests: Sequence[StepRequest]) -> tuple[StepRequest, ...]:
    """Return steps whose escalations have the latest risks of their specs. Raises NoRisk."""
    return tuple(_resolved(transaction, request) for request in requests)


def require(database: Database, requests: Sequence[StepRequest]) -> None:
    """Raise NoRisk if an escalation has a bound of a risk that nobody has fitted."""
    with database.read() as transaction:
        resolved(transaction, requests)


def _resolved(transaction: Transaction, request: StepRequest) -> StepRequest:
    asked = request.escalation
    if asked is None or not asked.doubt.needs_risk:
        return request
    risk = _latest(transaction, request.spec)
    return replace(request, escalation=replace(asked, doubt=asked.doubt.by(risk)))


def _latest(transaction: Transaction, spec: Spec) -> FittedRisk:
    query = select(RiskVersion.version, RiskVersion.model).join(SpecRow, SpecRow.id == RiskVersion.spec_id)
    latest = query.where(SpecRow.sha256 == spec.sha256).order_by(RiskVersion.version.desc()).limit(1)
    found = transaction.execute(latest).first()
    if found is None:
        raise NoRisk(
            f"no risk was fitted for the outputs of {spec}. Run the same without the escalation, judge 200 of its "
            "outputs with `docmill review JOB`, and fit the risk with `docmill review JOB --fit`"
        )
    return FittedRisk(found.version, RiskModel.stored(found.model))
