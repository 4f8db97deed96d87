"""Fitted risks: versions of a model of the risk that a spec's outputs are bad (`storage.steps.risk`).

`docmill review` fits them to judgements. Escalations and `docmill results` take the latest one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, func, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import RiskVersion, SpecRow, db_now
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import StorageError
from docmill.storage.steps.risk import FittedRisk, RiskModel
from docmill.storage.steps.steps import StepRequest, find_named_way, read_steps


def store(database: Database, spec_id: int, risk: FittedRisk) -> FittedRisk:
    """Store a risk as the next version of a spec, and return it with its number."""

    def work(transaction: Transaction) -> FittedRisk:
        latest = transaction.scalar(select(func.max(RiskVersion.version)).where(RiskVersion.spec_id == spec_id))
        stored = replace(risk, version=(latest or 0) + 1)
        values = {
            "n_good": stored.n_good,
            "n_bad": stored.n_bad,
            "model": stored.model.to_json(),
            "quality": dict(stored.quality),
            "fitted_at": db_now(),
        }
        transaction.execute(RiskVersion.__table__.insert().values(spec_id=spec_id, version=stored.version, **values))
        return stored

    return database.write(work)


def spec_with_risk(database: Database, job: int, step: str | None = None) -> int:
    """Return the spec whose outputs have a risk: that of a job's step, by default of the last one.

    Raises NotFound, and StorageError for a step with an escalation, whose outputs are those of two models.
    """
    with database.read() as transaction:
        steps = read_steps(transaction, job)
    last = find_named_way(steps, steps[-1].name if step is None else step)[-1]
    if last.escalation is not None:
        raise StorageError(
            f"a risk is that of one model, and the results of the step {last.name} come from two; run the same "
            "without --escalate, which computes nothing again, and take that job"
        )
    return last.spec_id


def read_latest(database: Database, job: int, step: str | None = None) -> FittedRisk:
    """Return the latest risk of the outputs of a job's step, the last one if none is named.

    Raises NotFound, and StorageError if there is none.
    """
    spec_id = spec_with_risk(database, job, step)
    with database.read() as transaction:
        risk = _latest(transaction, SpecRow.id == spec_id)
    if risk is None:
        raise StorageError(
            f"no risk was fitted for these outputs; `docmill review fit {job}` does it, from 200 judgements"
        )
    return risk


def _latest(transaction: Transaction, of_spec: ColumnElement[bool]) -> FittedRisk | None:
    query = select(RiskVersion).join(SpecRow, SpecRow.id == RiskVersion.spec_id).where(of_spec)
    row = transaction.execute(query.order_by(RiskVersion.version.desc()).limit(1)).first()
    if row is None:
        return None
    return FittedRisk(row.version, RiskModel.stored(row.model), row.n_good, row.n_bad, row.quality)


def with_risk(results: Iterable[dict[str, Any]], model: RiskModel, above: float | None) -> Iterator[dict[str, Any]]:
    """Yield results with their "risk"; None for an input without a result. With `above`, yield only a higher risk."""
    for result in results:
        risk = model.of(result) if result.get("outcome", "done") == "done" else None
        if above is None or (risk is not None and risk > above):
            yield result | {"risk": risk}


def resolve_risks(transaction: Transaction, requests: Sequence[StepRequest]) -> tuple[StepRequest, ...]:
    """Return steps whose escalations have the latest risks of their specs. Raises StorageError."""
    return tuple(_with_risk(transaction, request) for request in requests)


def require_risks(database: Database, requests: Sequence[StepRequest]) -> None:
    """Raise StorageError if an escalation has a bound of a risk that was not fitted."""
    with database.read() as transaction:
        resolve_risks(transaction, requests)


def _with_risk(transaction: Transaction, request: StepRequest) -> StepRequest:
    escalation = request.escalation
    if escalation is None or not escalation.doubt.needs_risk:
        return request
    risk = _latest(transaction, SpecRow.sha256 == request.spec.sha256)
    if risk is None:
        raise StorageError(
            f"no risk was fitted for the outputs of {request.spec}. Run the same without the escalation, judge 200 "
            "of its outputs with `docmill review judge JOB`, and fit the risk with `docmill review fit JOB`"
        )
    return replace(request, escalation=replace(escalation, doubt=replace(escalation.doubt, risk=risk)))
