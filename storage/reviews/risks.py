"""Versions of risks, and the judged outputs that they are fitted to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Judgement, OutcomeRow, RiskVersion, db_now
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import StorageError
from docmill.storage.outputs.output_types import CONFIDENCE
from docmill.storage.reviews.judgements import Verdict
from docmill.storage.reviews.population import reviewed_step
from docmill.storage.steps.risk import Result, RiskModel


@dataclass(frozen=True)
class Risk:
    """A version of a risk, with the measures of its quality by name."""

    version: int
    model: RiskModel
    n_good: int
    n_bad: int
    quality: Mapping[str, Any]


def judged_results(database: Database, spec_id: int) -> list[tuple[Result, bool]]:
    """Return the judged outputs of a spec in the order of their ids, each with True if it is bad.

    They are results without ids and texts.
    """
    confidence = [OutcomeRow.__table__.c[name] for name in CONFIDENCE]
    query = (
        select(Judgement.verdict, OutcomeRow.flags, OutcomeRow.tokens_in, OutcomeRow.tokens_out, *confidence)
        .join(Judgement, (Judgement.spec_id == OutcomeRow.spec_id) & (Judgement.content_id == OutcomeRow.content_id))
        .where(Judgement.spec_id == spec_id, Judgement.verdict != Verdict.SKIPPED.value)
        .order_by(Judgement.content_id)
    )
    with database.read() as transaction:
        rows = transaction.execute(query).all()
    return [(dict(row._mapping), row.verdict == Verdict.BAD) for row in rows]


def store(database: Database, spec_id: int, risk: Risk) -> Risk:
    """Store a risk as the next version of a spec, and return it with its number."""

    def work(transaction: Transaction) -> Risk:
        latest = transaction.scalar(select(func.max(RiskVersion.version)).where(RiskVersion.spec_id == spec_id))
        stored = Risk((latest or 0) + 1, risk.model, risk.n_good, risk.n_bad, risk.quality)
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


def spec_to_fit(database: Database, job: int, step: str | None = None) -> int:
    """Return the id of the spec to whose outputs a risk is fitted: that of a job's step, by default of the last one.

    Raises NotFound, and StorageError for a step with an escalation, whose outputs are those of two
    models.
    """
    found = reviewed_step(database, job, step).step
    if found.escalation is not None:
        raise StorageError(
            f"a risk is that of one model, and the results of the step {found.name} come from two; run the same "
            "without --escalate, which computes nothing again, and take that job"
        )
    return found.spec_id


def latest(database: Database, job: int, step: str | None = None) -> Risk:
    """Return the latest risk of the outputs of a job's step, the last one if none is named.

    Raises NotFound, and StorageError if there is none.
    """
    spec_id = spec_to_fit(database, job, step)
    query = select(RiskVersion).where(RiskVersion.spec_id == spec_id).order_by(RiskVersion.version.desc()).limit(1)
    with database.read() as transaction:
        found = transaction.execute(query).first()
    if found is None:
        raise StorageError(
            f"no risk was fitted for these outputs; `docmill review {job} --fit` does it, from 200 judgements"
        )
    return Risk(found.version, RiskModel.stored(found.model), found.n_good, found.n_bad, found.quality)


def with_risk(results: Iterable[dict[str, Any]], model: RiskModel, above: float | None) -> Iterator[dict[str, Any]]:
    """Yield results with their "risk". With `above`, yield only results with a higher risk."""
    for result in results:
        risk = model.of(result)
        if above is None or risk > above:
            yield result | {"risk": risk}
