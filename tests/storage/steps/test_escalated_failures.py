"""An escalation for failures: the better spec computes the texts on which the first one failed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from docmill.storage.core.database import Database
from docmill.storage.core.doubts import Doubt
from docmill.storage.core.outcomes import Outcome, Reason, Status
from docmill.storage.leases import shards
from docmill.storage.leases.shards import Claim
from docmill.storage.results.provenance import read_provenance
from docmill.storage.results.results import failures, results
from docmill.storage.results.status import JobStatus, read_status
from docmill.storage.steps import jobs
from docmill.storage.steps.jobs import OpenJob
from docmill.storage.steps.steps import EscalationRequest, Failures, StepRequest
from tests.storage.builders import TRANSLATE, claim_next, numbered, read, work
from tests.storage.steps.test_escalation import BEFORE_ANOTHER, LARGE, Models
from tests.storage.steps.test_steps import pipeline

FAILED = EscalationRequest(LARGE, Doubt.parse(["doubtful", "failed"]))
ALONE = (StepRequest("translate", TRANSLATE, escalation=FAILED),)
TEXTS = numbered(6)


class Failing(Models):
    """The small model fails on texts with a digit in `hard`."""

    hard = "13"

    def outcomes(self, claim: Claim) -> list[Outcome]:
        return [self._failing(one) for one in super().outcomes(claim)]

    def _failing(self, outcome: Outcome) -> Outcome:
        if (text := outcome.text or "").startswith("marian") and text[-2] in self.hard:
            return Outcome(outcome.content_id, Status.FAILED, reason="too long", reason_class=Reason.MODEL)
        return outcome

    def finish(self) -> None:
        work(self.database, self.outcomes)
        jobs.finish(self.database)


def counts(status: JobStatus) -> tuple[int, int, int, int]:
    return status.done, status.failed, status.skipped, status.pending


def test_texts_on_which_the_first_model_failed_have_the_result_of_the_better_one(database: Database) -> None:
    models = Failing(database)
    models.large = {"1": ("repetition",)}  # a doubtful result is better than none
    job = models.done(ALONE)
    assert models.of("large") == {f"text {n}" for n in range(4)}
    found = {one["id"]: one["text"] for one in results(database, job.id)}
    assert {key for key, text in found.items() if text.startswith("large")} == {"k0", "k1", "k2", "k3"}
    assert [*failures(database, job.id)] == []
    assert counts(read_status(database, job.id)) == (6, 0, 0, 0)
    again = models.done(ALONE)
    assert len(models.computed) == 10
    assert counts(read_status(database, again.id)) == (6, 0, 0, 0)
    record = read_provenance(database, job.id, "k1").step.escalation
    assert record is not None
    assert (record.first.status, record.second_won) == ("failed", True)


def test_without_it_a_failure_stays_one(database: Database) -> None:
    models = Failing(database)
    job = models.done()
    assert models.of("large") == {"text 0", "text 2"}
    assert [one["id"] for one in failures(database, job.id)] == ["k1", "k3"]
    assert counts(read_status(database, job.id)) == (4, 2, 0, 0)


def test_a_text_on_which_both_fail_has_the_first_reason_until_a_retry_succeeds(database: Database) -> None:
    models = Failing(database)
    models.refused = "3"
    job = models.done(ALONE)
    assert [(one["id"], one["reason"]) for one in failures(database, job.id)] == [("k3", "too long")]
    assert counts(read_status(database, job.id)) == (5, 1, 0, 0)
    assert jobs.retry(database, job.id) == 2  # by both models; text 1 has a result
    assert counts(read_status(database, job.id)) == (4, 0, 0, 2)
    models.refused = ""
    models.finish()
    assert counts(read_status(database, job.id)) == (6, 0, 0, 0)


def test_a_text_that_both_do_in_a_retry_counts_once(database: Database) -> None:
    models = Failing(database)
    models.refused = "3"
    job = models.done(ALONE)
    jobs.retry(database, job.id)
    models.refused = models.hard = ""
    claims = [claim_next(database), claim_next(database)]
    for claim in sorted(claims, key=lambda one: -one.spec_id):  # the better model is done first
        shards.commit(database, claim, models.outcomes(claim), None)
    jobs.finish(database)
    assert counts(read_status(database, job.id)) == (6, 0, 0, 0)
    assert {one["text"] for one in results(database, job.id) if one["id"] == "k3"} == {"marian(text 3)"}


def test_a_later_step_reads_what_was_rescued_and_is_blocked_by_the_rest(database: Database) -> None:
    models = Failing(database)
    models.refused = "3"
    job = models.done((replace(BEFORE_ANOTHER[0], escalation=FAILED), BEFORE_ANOTHER[1]))
    assert "large(text 1)" in models.of("minilm")
    english, vector = read_status(database, job.id).steps
    assert (english.done, english.failed) == (5, 1)
    assert (vector.done, vector.blocked) == (5, 1)


@pytest.mark.parametrize(("refused", "state"), [("", "done"), ("3", "stopped")])
def test_a_bound_of_failures_counts_texts_on_which_both_failed(database: Database, refused: str, state: str) -> None:
    models = Failing(database)
    models.refused = refused
    job = read(database, replace(pipeline(steps=ALONE), max_failures=0.0), TEXTS)
    models.finish()
    assert read_status(database, job.id).state == state


def test_failures_of_an_earlier_job_are_escalated(database: Database) -> None:
    models = Failing(database)
    models.done((StepRequest("translate", TRANSLATE),))
    job: OpenJob = models.done(ALONE)
    assert models.of("large") == {f"text {n}" for n in range(4)}
    assert counts(read_status(database, job.id)) == (6, 0, 0, 0)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ((5, 0, 0), Failures(5, 0, 0)),
        ((5, 2, 0), Failures(3, 2, 0)),
        ((5, 2, 2), Failures(1, 2, 2)),
        ((5, 2, 9), Failures(0, 2, 3)),
        ((1, 2, 0), Failures(0, 1, 0)),
        ((1, -1, 0), Failures(1, 0, 0)),
    ],
)
def test_failures_that_may_be_among_the_pending_texts_wait(given: Any, found: Failures) -> None:
    assert Failures.of(*given) == found
