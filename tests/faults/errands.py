"""Work of people that a test of rights does as one of its users."""

from __future__ import annotations

from docmill.storage.core.database import Database
from docmill.storage.core.risk import RiskModel
from docmill.storage.reviews import judgements, risks
from docmill.storage.reviews.judgements import Judged, Verdict
from docmill.storage.reviews.population import population, reviewed_step
from docmill.storage.reviews.risks import Risk


def review(admin: Database, job: int) -> None:
    """Judge the outputs of a job, and judge them again."""
    step = reviewed_step(admin, job)
    judged = [Judged(content, Verdict.GOOD, "ann", 0) for content in population(admin, step, 0).contents.tolist()]
    for _ in range(2):
        assert judgements.store(admin, step.step.spec_id, judged) == 3
    assert len(judgements.of_spec(admin, step.step.spec_id)) == 3
    assert len(risks.judged_results(admin, step.step.spec_id)) == 3
    risks.store(admin, step.step.spec_id, Risk(0, RiskModel(0.0, ()), 1, 1, {}))
