"""An escalation by the fitted risk: the bound in SQL and in Python, and the version that a job keeps."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.doubts import Doubt
from docmill.storage.core.number_bounds import Bound
from docmill.storage.core.outcomes import Outcome, Status
from docmill.storage.core.risk import NUMBERS, Feature, FittedRisk, RiskModel
from docmill.storage.core.schema import OutcomeRow
from docmill.storage.errors import NoRisk
from docmill.storage.leases.shards import Claim
from docmill.storage.reviews import risks
from docmill.storage.reviews.population import reviewed_step
from docmill.storage.reviews.risks import Risk
from docmill.storage.steps import fitted_risks, jobs
from docmill.storage.steps.doubt_conditions import doubted
from docmill.storage.steps.steps import EscalationRequest, StepRequest, of_job
from tests.storage.builders import TRANSLATE, numbered, read, request, work
from tests.storage.steps.test_escalation import LARGE, Models, won
from tests.storage.steps.test_steps import pipeline

SURE = RiskModel(0.0, (Feature("confidence", 0.5, 0.1, -1.0),))  # the risk is above 0.5 for a confidence below 0.5
UNSURE = RiskModel(0.0, (Feature("confidence", 0.5, 0.1, 1.0),))
PLAIN = StepRequest("translate", TRANSLATE)
RISKY = (replace(PLAIN, escalation=EscalationRequest(LARGE, Doubt.parse(["risk>0.5"]))),)


def fitted(database: Database, job: int, model: RiskModel) -> int:
    spec_id = reviewed_step(database, job).step.spec_id
    return risks.store(database, spec_id, Risk(0, model, 150, 50, {})).version


def judged(database: Database) -> Models:
    """Compute texts by the small model, and fit its risk."""
    models = Models(database)
    models.confidence = {"1": 0.3, "3": 0.49, "4": 0.51, "5": 0.8}
    fitted(database, models.done((PLAIN,)).id, SURE)
    return models


def test_results_above_the_risk_are_computed_again(database: Database) -> None:
    models = judged(database)
    job = models.done(RISKY)
    assert models.of("large") == {"text 1", "text 3"}
    assert won(database, job) == {"1", "3"}


def test_a_job_keeps_the_risk_that_it_began_with(database: Database) -> None:
    models = judged(database)
    job = read(database, pipeline("b", RISKY), numbered(6))
    assert fitted(database, 1, UNSURE) == 2
    assert jobs.open_job(database, pipeline("b", RISKY)).id == job.id  # the same command continues it
    work(database, models.outcomes)
    jobs.finish(database)
    assert won(database, job) == {"1", "3"}
    with database.read() as transaction:
        (step,) = of_job(transaction, job.id)
    assert step.escalation is not None
    assert step.escalation.doubt.risk == FittedRisk(1, SURE)
    later = models.done(RISKY)
    assert won(database, later) == {"4", "5"}
    assert won(database, job) == {"1", "3"}


def test_a_job_without_a_fitted_risk_is_refused_and_leaves_nothing(database: Database) -> None:
    with pytest.raises(NoRisk, match="no risk was fitted for the outputs of translate with marian"):
        jobs.open_job(database, pipeline(steps=RISKY))
    with pytest.raises(NoRisk, match="docmill review JOB --fit"):
        fitted_risks.require(database, RISKY)
    fitted_risks.require(database, (PLAIN,))
    with database.read() as transaction:
        assert of_job(transaction, 1) == ()


def test_sql_and_python_find_the_same_outcomes(database: Database) -> None:
    chance = random.Random(1)
    flags = ("repetition", "windowed", "empty", "language:fr")

    def outcomes(claim: Claim) -> list[Outcome]:
        return [
            Outcome(
                content_id,
                Status.DONE if chance.random() < 0.9 else Status.FAILED,
                text="out",
                flags=tuple(chance.sample(flags, chance.randrange(3))),
                tokens_in=chance.choice([0, 1, 7, 2_000]),
                tokens_out=chance.choice([0, 3, 50]),
                confidence=chance.choice([None, chance.random()]),
                mean_logprob=chance.choice([None, -chance.random()]),
            )
            for content_id, _ in claim.texts
        ]

    read(database, request(), numbered(60))
    work(database, outcomes)
    outcome = OutcomeRow.__table__.alias()
    with database.read() as transaction:
        rows = transaction.execute(select(outcome)).all()
        for _ in range(20):
            names = [*NUMBERS, *(f"flag {flag}" for flag in flags)]
            some = chance.sample(names, chance.randrange(len(names)))
            features = tuple(
                Feature(name, chance.random(), 0.1 + chance.random(), chance.gauss(0, 1)) for name in some
            )
            risk = FittedRisk(1, RiskModel(chance.gauss(0, 1), features))
            bound = Bound("risk", chance.random() < 0.5, chance.choice([0.0, 1.0, round(chance.random(), 2)]))
            doubt = Doubt(frozenset(), (bound,), failed=chance.random() < 0.5, risk=risk)
            found = transaction.execute(select(outcome.c.content_id).where(doubted(doubt, outcome))).all()
            expected = {row.content_id for row in rows if doubt.holds(row)}
            assert {row.content_id for row in found} == expected
