"""Escalation: a better spec recomputes doubtful outcomes, and the better of the two outcomes is the result."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import SpecRow
from docmill.storage.core.specs import Outcome, Reason, Spec, Status
from docmill.storage.deletion import gc
from docmill.storage.errors import StorageError
from docmill.storage.leases import shards
from docmill.storage.leases.shards import Claim
from docmill.storage.pipelines import views
from docmill.storage.results.job_counts import count_flags
from docmill.storage.results.results import failures, results
from docmill.storage.results.status import JobStatus, read_status
from docmill.storage.steps import fitted_risks, jobs
from docmill.storage.steps.conditions import Doubt
from docmill.storage.steps.jobs import OpenJob
from docmill.storage.steps.risk import FittedRisk, RiskFeature, RiskModel
from docmill.storage.steps.steps import EscalationRequest, StepRequest, read_steps
from tests.storage.builders import (
    EMBED,
    TRANSLATE,
    Text,
    assert_status,
    claim_next,
    commit_next,
    finish,
    numbered,
    read,
    read_view,
    request,
    run_job,
    shards_of,
)

LARGE = Spec("translate", "large", "sha256:4")
ALONE = (StepRequest("translate", TRANSLATE, escalation=EscalationRequest(LARGE)),)
BEFORE_ANOTHER = (replace(ALONE[0], name="english"), StepRequest("vector", EMBED, "english"))
TEXTS = numbered(6)
SMALL_FLAGS = {"0": ("empty_window",), "2": ("empty_window", "repetition"), "3": ("windowed",)}


class Models:
    """Computes every claim. The last digit of a text decides the flags of the small and the large model's outputs.

    The small model fails on texts with a digit in `hard`, and the large one on texts with a digit in `refused`.
    """

    def __init__(self, database: Database, hard: str = "") -> None:
        self.database = database
        self.hard = hard
        self.small: dict[str, tuple[str, ...]] = dict(SMALL_FLAGS)
        self.large: dict[str, tuple[str, ...]] = {}
        self.confidence: dict[str, float] = {}
        self.refused = ""
        self.computed: list[tuple[str, str]] = []

    def outcomes(self, claim: Claim) -> list[Outcome]:
        [model] = self.database.values(select(SpecRow.model).where(SpecRow.id == claim.spec_id))
        self.computed += [(model, text) for _, text in claim.texts]
        return [self._outcome(model, content_id, text) for content_id, text in claim.texts]

    def _outcome(self, model: str, content_id: int, text: str) -> Outcome:
        if model == "minilm":
            return Outcome(content_id, Status.DONE, vector=b"\0\0\x80?")
        digit = text[-1]
        if model == "large" and digit in self.refused:
            return Outcome(content_id, Status.FAILED, reason="it would not", reason_class=Reason.MODEL)
        if model == "marian" and digit in self.hard:
            return Outcome(content_id, Status.FAILED, reason="too long", reason_class=Reason.MODEL)
        flags = (self.large if model == "large" else self.small).get(digit, ())
        sure = self.confidence.get(digit) if model == "marian" else 0.9
        return Outcome(content_id, Status.DONE, text=f"{model}({text})", flags=flags, tokens_in=3, confidence=sure)

    def run_job(
        self, steps: tuple[StepRequest, ...] = ALONE, texts: list[Text] = TEXTS, source: str = "a"
    ) -> OpenJob:
        """Read a source of these texts into a job, and work it off."""
        return run_job(self.database, request(source, steps=steps), texts, self.outcomes)

    def finish(self) -> None:
        """Work until nothing is left, and end the jobs."""
        finish(self.database, self.outcomes)

    def texts_of(self, model: str) -> set[str]:
        """Return the texts that a model computed."""
        return {text for name, text in self.computed if name == model}


def won(database: Database, job: OpenJob, step: str | None = None) -> set[str]:
    """Return the last digits of the documents whose result is the large model's."""
    return {row["id"][-1] for row in results(database, job.id, step=step) if row["text"].startswith("large")}


def test_the_better_spec_computes_doubtful_texts_and_its_outcome_is_the_result(database: Database) -> None:
    models = Models(database)
    job = models.run_job()
    assert models.texts_of("large") == {"text 0", "text 2"}
    assert len(models.texts_of("marian")) == 6
    rows = list(results(database, job.id))
    assert [row["id"] for row in rows] == [f"k{n}" for n in range(6)]
    assert won(database, job) == {"0", "2"}
    assert rows[0]["flags"] == []  # the large model's
    status = read_status(database, job.id)
    assert (status.state, status.texts, status.done, status.pending) == ("done", 6, 6, 0)
    assert len(status.steps) == 1
    escalated = status.steps[0].escalated
    assert escalated is not None
    assert (escalated.texts, escalated.done, escalated.prior) == (2, 2, 0)
    assert count_flags(database, job.id)["translate"].doubtful == 0


def test_the_small_models_result_stays_if_the_large_one_has_more_doubtful_flags_or_fails(database: Database) -> None:
    models = Models(database)
    models.small = {str(n): ("repetition",) for n in range(5)}
    models.large = {"1": ("empty",), "2": ("empty", "repetition"), "3": ("windowed", "reduced")}
    models.refused = "0"
    job = models.run_job()
    assert models.texts_of("large") == {f"text {n}" for n in range(5)}
    assert won(database, job) == {"1", "3", "4"}  # with as many flags, the large model's
    assert list(failures(database, job.id)) == []
    assert_status(database, job.id, done=6, failed=0)
    assert count_flags(database, job.id)["translate"].doubtful == 3


def test_a_second_run_computes_nothing_and_a_grown_corpus_only_its_new_texts(database: Database) -> None:
    models = Models(database)
    models.refused = "2"
    models.run_job()
    n = len(models.computed)
    again = models.run_job()
    assert len(models.computed) == n
    status = read_status(database, again.id)
    assert status.prior == status.texts == 6
    assert won(database, again) == {"0"}
    models.run_job(texts=[*TEXTS, ("new0", "other 0"), ("new1", "other 1")])
    assert models.computed[n:] == [("marian", "other 0"), ("marian", "other 1"), ("large", "other 0")]


def test_without_an_escalation_the_small_models_results_count(database: Database) -> None:
    models = Models(database)
    models.run_job()
    n = len(models.computed)
    plain = models.run_job((StepRequest("translate", TRANSLATE),))
    assert won(database, plain) == set()
    large = models.run_job((StepRequest("translate", LARGE),))
    assert {text for _, text in models.computed[n:]} == {f"text {n}" for n in (1, 3, 4, 5)}
    assert len(won(database, large)) == 6
    escalated = models.run_job()
    assert won(database, escalated) == {"0", "2"}  # the large model's outcome counts for doubtful texts only


def test_a_later_step_reads_the_result_and_waits_for_it(database: Database) -> None:
    models = Models(database)
    job = read(database, request(steps=BEFORE_ANOTHER), TEXTS)
    commit_next(database, models.outcomes)
    assert sorted((row.step, row.n_contents) for row in shards_of(database, job)) == [(0, 6), (1, 4), (2, 2)]
    assert read_status(database, job.id).steps[0].done == 4  # two wait for the large model
    models.finish()
    assert models.texts_of("minilm") == {
        *(f"large(text {n})" for n in (0, 2)),
        *(f"marian(text {n})" for n in (1, 3, 4, 5)),
    }
    assert {key for row in results(database, job.id) for key in row["steps"]} == {"english", "vector"}
    assert won(database, job, "english") == {"0", "2"}
    assert read_status(database, job.id).state == "done"


def test_a_text_that_the_large_model_fails_goes_on_with_the_small_result_until_a_retry_succeeds(
    database: Database,
) -> None:
    models = Models(database)
    models.refused = "2"
    job = models.run_job(BEFORE_ANOTHER)
    assert "marian(text 2)" in models.texts_of("minilm")
    models.refused = ""
    assert jobs.retry(database, job.id) == 1
    models.finish()
    assert "large(text 2)" in models.texts_of("minilm")
    assert won(database, job, "english") == {"0", "2"}
    assert len(list(results(database, job.id, step="vector"))) == 6
    assert_status(database, job.id, state="done", failed=0, pending=0)


def test_dropped_results_count_as_lost_and_are_computed_again(database: Database) -> None:
    models = Models(database)
    job = models.run_job()
    gc.drop(database, spec_ids=gc.specs(database, "translate/large"))
    assert read_status(database, job.id).lost == 2
    assert won(database, job) == set()
    n = len(models.computed)
    models.run_job()
    assert sorted(models.computed[n:]) == [("large", "text 0"), ("large", "text 2")]


def test_doubtful_results_after_a_retry_of_the_large_model_are_counted_once(database: Database) -> None:
    models = Models(database)
    models.small = {str(n): ("repetition",) for n in range(3)}
    models.refused = "012"
    job = read(database, request(steps=ALONE, max_flagged=60.0), TEXTS)
    for refused in ("012", "02", "0"):
        models.refused = refused
        models.finish()
        assert read_status(database, job.id).state == "done"
        assert sum(row.n_doubtful for row in shards_of(database, job)) == 3
        jobs.retry(database, job.id)


@pytest.mark.parametrize(("most", "state"), [(40.0, "done"), (30.0, "stopped")])
def test_a_bound_of_doubtful_results_counts_escalated_texts_whose_first_result_was_there(
    database: Database, most: float, state: str
) -> None:
    models = Models(database)
    models.small = {str(n): ("repetition",) for n in range(5)}
    models.large = {"1": ("repetition",), "2": ("repetition",)}
    models.run_job((StepRequest("translate", TRANSLATE),))
    job = read(database, request(steps=ALONE, max_flagged=most), TEXTS)
    models.finish()
    status = read_status(database, job.id)
    reason = None if state == "done" else "more than 30 % of its texts are doubtful (2 of 5)"
    assert (status.state, status.reason) == (state, reason)


def test_both_models_get_the_same_prompt_with_metadata(database: Database) -> None:
    prompt = {"prompt": "{meta.n}: {text}"}
    small, large = (replace(spec, params=prompt) for spec in (TRANSLATE, LARGE))
    steps = (StepRequest("translate", small, escalation=EscalationRequest(large)),)
    models = Models(database)
    job = models.run_job(steps)
    assert models.texts_of("large") == {"6: text 0", "6: text 2"}
    assert won(database, job) == {"0", "2"}
    n = len(models.computed)
    models.run_job(steps)
    assert len(models.computed) == n


def test_a_view_has_the_same_results_as_the_job(database: Database) -> None:
    models = Models(database)
    flags = [(), ("windowed",), ("empty",), ("empty", "repetition"), ("repetition", "truncated")]
    pairs = [(small, large) for small in flags for large in flags]
    texts = [(f"k{n}", f"text {n}") for n in range(len(pairs))]
    by_text = {text: pair for (_, text), pair in zip(texts, pairs, strict=True)}
    models.confidence = {str(n): 0.1 for n in range(0, 10, 2)}

    def outcomes(claim: Claim) -> list[Outcome]:
        return [
            replace(outcome, flags=by_text[text][(outcome.text or "").startswith("large")])
            for outcome, (_, text) in zip(models.outcomes(claim), claim.texts, strict=True)
        ]

    doubt = Doubt.parse(["doubtful", "confidence<0.2"])
    steps = (StepRequest("translate", TRANSLATE, escalation=EscalationRequest(LARGE, doubt)),)
    job = run_job(database, request(steps=steps), texts, outcomes)
    by_job = {row["id"]: row["text"] for row in results(database, job.id)}
    views.make(database, "press", "books", steps)
    assert {row["id"]: row["translate"] for row in read_view(database, "pipeline_press")} == by_job
    assert 5 < sum(text.startswith("large") for text in by_job.values()) < len(pairs)


FAILED = EscalationRequest(LARGE, Doubt.parse(["doubtful", "failed"]))
OF_FAILED = (StepRequest("translate", TRANSLATE, escalation=FAILED),)


def counts(status: JobStatus) -> tuple[int, int, int, int]:
    return status.done, status.failed, status.skipped, status.pending


def test_texts_on_which_the_first_model_failed_have_the_result_of_the_better_one(database: Database) -> None:
    models = Models(database, hard="13")
    models.large = {"1": ("repetition",)}  # a doubtful result is better than none
    job = models.run_job(OF_FAILED)
    assert models.texts_of("large") == {f"text {n}" for n in range(4)}
    texts = {row["id"]: row["text"] for row in results(database, job.id)}
    assert {key for key, text in texts.items() if text.startswith("large")} == {"k0", "k1", "k2", "k3"}
    assert [*failures(database, job.id)] == []
    assert counts(read_status(database, job.id)) == (6, 0, 0, 0)
    again = models.run_job(OF_FAILED)
    assert len(models.computed) == 10
    assert counts(read_status(database, again.id)) == (6, 0, 0, 0)


def test_a_text_on_which_both_models_fail_has_the_first_reason_until_a_retry_succeeds(database: Database) -> None:
    models = Models(database, hard="13")
    models.refused = "3"
    job = models.run_job(OF_FAILED)
    assert [(row["id"], row["reason"]) for row in failures(database, job.id)] == [("k3", "too long")]
    assert counts(read_status(database, job.id)) == (5, 1, 0, 0)
    assert jobs.retry(database, job.id) == 2  # for both models; text 1 has a result
    assert counts(read_status(database, job.id)) == (4, 0, 0, 2)
    models.refused = ""
    models.finish()
    assert counts(read_status(database, job.id)) == (6, 0, 0, 0)


def test_a_text_that_both_models_do_in_a_retry_counts_once(database: Database) -> None:
    models = Models(database, hard="13")
    models.refused = "3"
    job = models.run_job(OF_FAILED)
    jobs.retry(database, job.id)
    models.refused = models.hard = ""
    claims = [claim_next(database), claim_next(database)]
    for claim in sorted(claims, key=lambda claim: -claim.spec_id):  # the better model is done first
        shards.commit(database, claim, models.outcomes(claim), None)
    jobs.finish(database)
    assert counts(read_status(database, job.id)) == (6, 0, 0, 0)
    assert {row["text"] for row in results(database, job.id) if row["id"] == "k3"} == {"marian(text 3)"}


def test_a_later_step_reads_rescued_texts_and_is_blocked_by_the_rest(database: Database) -> None:
    models = Models(database, hard="13")
    models.refused = "3"
    job = models.run_job((replace(BEFORE_ANOTHER[0], escalation=FAILED), BEFORE_ANOTHER[1]))
    assert "large(text 1)" in models.texts_of("minilm")
    english, vector = read_status(database, job.id).steps
    assert (english.done, english.failed) == (5, 1)
    assert (vector.done, vector.blocked) == (5, 1)


@pytest.mark.parametrize("before", [(StepRequest("translate", TRANSLATE),), OF_FAILED])
@pytest.mark.parametrize(("refused", "state"), [("", "done"), ("3", "done"), ("5", "stopped")])
def test_a_bound_of_failures_counts_new_texts_on_which_both_models_failed(
    database: Database, before: tuple[StepRequest, ...], refused: str, state: str
) -> None:
    models = Models(database, hard="135")
    models.refused = "3"
    models.run_job(before, TEXTS[:4])
    models.refused = refused
    job = read(database, request(steps=OF_FAILED, max_failures=0.0), TEXTS)
    models.finish()
    assert read_status(database, job.id).state == state


SURE = RiskModel(
    0.0, (RiskFeature("confidence", 0.5, 0.1, -1.0),)
)  # the risk is above 0.5 for a confidence below 0.5
UNSURE = RiskModel(0.0, (RiskFeature("confidence", 0.5, 0.1, 1.0),))
PLAIN = StepRequest("translate", TRANSLATE)
RISKY = (replace(PLAIN, escalation=EscalationRequest(LARGE, Doubt.parse(["risk>0.5"]))),)


def fit(database: Database, job: int, model: RiskModel) -> int:
    """Store a risk model for the outputs of a job. Return its version."""
    spec_id = fitted_risks.spec_with_risk(database, job)
    return fitted_risks.store(database, spec_id, FittedRisk(0, model, 150, 50, {})).version


def test_a_job_keeps_the_risk_model_that_it_began_with(database: Database) -> None:
    models = Models(database)
    models.confidence = {"1": 0.3, "3": 0.49, "4": 0.51, "5": 0.8}
    fit(database, models.run_job((PLAIN,)).id, SURE)
    job = read(database, request("b", steps=RISKY), numbered(6))
    assert fit(database, 1, UNSURE) == 2
    assert jobs.open_job(database, request("b", steps=RISKY)).id == job.id  # the same command continues it
    models.finish()
    assert won(database, job) == {"1", "3"}
    with database.read() as transaction:
        (step,) = read_steps(transaction, job.id)
    assert step.escalation is not None
    assert step.escalation.doubt.risk == FittedRisk(1, SURE)
    later = models.run_job(RISKY)
    assert won(database, later) == {"4", "5"}
    assert won(database, job) == {"1", "3"}


def test_a_job_without_a_fitted_risk_is_refused_and_leaves_nothing(database: Database) -> None:
    with pytest.raises(StorageError, match="no risk was fitted for the outputs of translate with marian"):
        jobs.open_job(database, request(steps=RISKY))
    with pytest.raises(StorageError, match="docmill review fit JOB"):
        fitted_risks.require_risks(database, RISKY)
    with pytest.raises(StorageError, match="no risk was fitted"):
        views.make(database, "nightly", "books", RISKY)
    fitted_risks.require_risks(database, (PLAIN,))
    with database.read() as transaction:
        assert read_steps(transaction, 1) == ()
