"""Outputs are drawn without their texts, and judgements hold for every job, as long as their outputs do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import insert, select

from docmill.features.reviewing import judgements
from docmill.features.reviewing.judgements import Judged, Judgement, Verdict
from docmill.features.reviewing.population import Population, rank, read_outputs, read_population, read_step
from docmill.features.reviewing.session import Entry, Review, list_rows
from docmill.storage.core.database import Database
from docmill.storage.core.schema import OutcomeRow
from docmill.storage.core.specs import Outcome, Status
from docmill.storage.deletion import gc, needed, removal
from docmill.storage.deletion.paging import Removed
from docmill.storage.errors import NotFound, StorageError
from docmill.storage.leases.shards import Claim
from docmill.storage.results.results import results
from docmill.storage.steps import fitted_risks
from docmill.storage.steps.risk import FittedRisk, RiskFeature, RiskModel
from docmill.storage.steps.steps import EscalationRequest, StepRequest
from tests.storage.aging import days_pass
from tests.storage.builders import (
    COPY,
    EMBED,
    Text,
    commit_next,
    count_rows,
    embedded,
    finish,
    numbered,
    read,
    request,
    work,
)
from tests.storage.deletion.test_aged_results import LIMIT_S, run, spec, spec_id


def write_outcomes(claim: Claim) -> list[Outcome]:
    """An output for each text; every second has a flag and no confidence, and `text 3` fails."""
    return [
        Outcome(content_id, Status.FAILED, reason="it would not")
        if text == "text 3"
        else Outcome(
            content_id,
            Status.DONE,
            text=f"out of {text}",
            flags=() if int(text[-1]) % 2 else ("repetition",),
            confidence=int(text[-1]) / 10 if int(text[-1]) % 2 else None,
        )
        for content_id, text in claim.texts
    ]


def compute_outputs(database: Database, texts: list[Text], *, corpus: str = "books") -> tuple[int, Population]:
    """Read and compute texts. Return the job, and the outputs of its step."""
    job = read(database, request(corpus=corpus), texts)
    finish(database, write_outcomes)
    return job.id, read_population(database, read_step(database, job.id), seed=0)


def judge_all(database: Database, job: int, outputs: Population) -> int:
    judged = [Judged(content, Verdict.GOOD, "ann", 0) for content in outputs.contents.tolist()]
    return judgements.store(database, read_step(database, job).step.spec_id, judged)


def test_a_population_has_each_done_output_once_with_its_flags_and_confidence(database: Database) -> None:
    job, outputs = compute_outputs(database, [*numbered(6), ("again", "text 1")])
    assert len(outputs) == len({*outputs.contents.tolist()}) == 5
    flags = [outputs.flag_sets[code] for code in outputs.flags]
    assert sorted(flags) == [(), (), ("repetition",), ("repetition",), ("repetition",)]
    assert [bool(np.isnan(number)) for number in outputs.confidence] == [bool(of) for of in flags]
    documents = dict(zip(outputs.contents.tolist(), outputs.documents.tolist(), strict=True))
    shown = read_outputs(database, read_step(database, job), documents)
    assert [item.content_id for item in shown] == [*documents]
    assert {(item.document, item.input, item.output) for item in shown} == {
        (f"k{n}", f"text {n}", f"out of text {n}") for n in (0, 1, 2, 4, 5)
    }
    assert [rank(item.sha256, 0) for item in shown] == outputs.ranks.tolist()


def test_an_outputs_place_in_the_draw_depends_on_its_text_and_the_seed_alone(database: Database) -> None:
    job, outputs = compute_outputs(database, numbered(6))
    other = read_population(database, read_step(database, job), seed=1)
    assert other.contents.tolist() == outputs.contents.tolist()
    assert other.ranks.tolist() != outputs.ranks.tolist()
    grown = compute_outputs(database, numbered(9), corpus="more")[1]
    ranks = dict(zip(grown.contents.tolist(), grown.ranks.tolist(), strict=True))
    assert [ranks[content] for content in outputs.contents.tolist()] == outputs.ranks.tolist()
    assert rank(b"a" * 32, 5) == 3129119266216567163


def test_a_judgement_replaces_the_earlier_one_and_holds_for_later_jobs(database: Database) -> None:
    job, outputs = compute_outputs(database, numbered(6))
    spec_id = read_step(database, job).step.spec_id
    assert judge_all(database, job, outputs) == 5
    first = int(outputs.contents[0])
    judgements.store(database, spec_id, [Judged(first, Verdict.BAD, "bob", 3, "a NUL\0")])
    later, _ = compute_outputs(database, numbered(9), corpus="more")
    assert read_step(database, later).step.spec_id == spec_id
    known = judgements.read(database, spec_id)
    assert known[first] == Judged(first, Verdict.BAD, "bob", 3, "a NUL\ufffd")
    assert len(known) == 5
    (shown, *_) = read_outputs(database, read_step(database, job), {first: int(outputs.documents[0])})
    assert judgements.find_contents(database, spec_id, [shown.sha256, b"x" * 32]) == {shown.sha256: first}


def test_judgements_go_with_removed_documents_and_dropped_results(database: Database) -> None:
    job, outputs = compute_outputs(database, numbered(6))
    judge_all(database, job, outputs)
    removal.remove_documents(database, "books", ["k0"])
    assert count_rows(database, Judgement) == 4
    assert judge_all(database, job, outputs) == 4
    gc.collect(database)
    assert count_rows(database, Judgement) == 4
    gc.drop(database)
    assert count_rows(database, Judgement) == 0


def test_vectors_and_unknown_steps_are_refused(database: Database) -> None:
    job = read(database, request(spec=EMBED), numbered(2))
    work(database, embedded)
    with pytest.raises(StorageError, match="makes vectors"):
        read_step(database, job.id)
    with pytest.raises(NotFound):
        read_step(database, job.id, "other")


def test_the_latest_version_of_a_risk_is_that_of_results(database: Database) -> None:
    job, _ = compute_outputs(database, numbered(6))
    spec_id = read_step(database, job).step.spec_id
    with pytest.raises(StorageError, match=f"docmill review fit {job}"):
        fitted_risks.read_latest(database, job)
    model = RiskModel(0.0, (RiskFeature("flag repetition", 0.0, 1.0, 2.0),))
    for version in (1, 2):
        assert fitted_risks.store(database, spec_id, FittedRisk(0, model, 150, 50, {"auc": 0.8})).version == version
    assert fitted_risks.read_latest(database, job) == FittedRisk(2, model, 150, 50, {"auc": 0.8})
    with_risk = [*fitted_risks.with_risk(results(database, job), model, None)]
    assert all((result["risk"] > 0.5) is (result["flags"] == ["repetition"]) for result in with_risk)
    assert len([*fitted_risks.with_risk(results(database, job), model, 0.5)]) == 3


def test_a_risk_is_fitted_to_good_and_bad_verdicts_with_what_results_have(database: Database) -> None:
    job, outputs = compute_outputs(database, numbered(6))
    spec_id = read_step(database, job).step.spec_id
    verdicts = [Verdict.GOOD, Verdict.BAD, Verdict.SKIPPED, Verdict.GOOD, Verdict.BAD]
    pairs = [*zip(outputs.contents.tolist(), verdicts, strict=True)]
    judgements.store(database, spec_id, [Judged(content, verdict, "ann", 0) for content, verdict in pairs])
    judged = judgements.read_judged_results(database, spec_id)
    assert [is_bad for _, is_bad in judged] == [False, True, False, True]
    model = RiskModel(0.0, (RiskFeature("confidence", 0.5, 0.1, 1.0), RiskFeature("flag repetition", 0.0, 1.0, 2.0)))
    of_results = {round(model.of(result), 9) for result in results(database, job)}
    assert {round(model.of(result), 9) for result, _ in judged} <= of_results


def test_the_results_of_two_models_are_reviewed_each_under_its_own_spec(database: Database) -> None:
    better = replace(COPY, model="better")
    steps = (StepRequest("copy", COPY, escalation=EscalationRequest(better)),)
    job = read(database, replace(request(), steps=steps), numbered(4))
    finish(database, write_outcomes)  # 0 and 2 have a flag, and as many in the second result
    review = Review.of(database, job.id)
    assert len(review.population) == 3
    first, second = review.reviewed.step.spec_ids
    shown = [*review.items(review.waiting(10))]
    assert {item.document: item.spec for item in shown} == {
        "k0": better.sha256.hex(),
        "k1": COPY.sha256.hex(),
        "k2": better.sha256.hex(),
    }
    assert sum(review.judge(Judged(item.content_id, Verdict.BAD, "ann", 0), item.spec) for item in shown) == 3
    assert (len(judgements.read(database, first)), len(judgements.read(database, second))) == (1, 2)
    assert Review.of(database, job.id).summary().judged == 3
    rows = [*list_rows(review.items(review.population.contents.tolist()), 0)]
    entries = [
        Entry("a row", str(row["spec"]), bytes.fromhex(str(row["text_sha256"])), 0, Verdict.GOOD, None, None)
        for row in rows
    ]
    assert review.take(entries, "bob") == 3
    assert [share.good for share in Review.of(database, job.id).summary().shares][:3] == [3, 1, 2]
    plain = read(database, request("b"), numbered(4))
    assert Review.of(database, plain.id).summary().judged == 1  # of the first model's own results
    with pytest.raises(StorageError, match="a risk is that of one model"):
        fitted_risks.spec_with_risk(database, job.id)


def test_a_verdict_belongs_to_the_output_that_was_shown_even_if_an_escalation_computed_it_meanwhile(
    database: Database,
) -> None:
    better = replace(COPY, model="better")
    steps = (StepRequest("copy", COPY, escalation=EscalationRequest(better)),)
    job = read(database, replace(request(), steps=steps), [("k0", "text 0")])
    commit_next(database, write_outcomes)
    review = Review.of(database, job.id)
    finish(database, write_outcomes)
    [shown] = review.items(review.waiting(10))
    assert review.judge(Judged(shown.content_id, Verdict.GOOD, "ann", 0), shown.spec) == 1
    first, second = review.reviewed.step.spec_ids
    assert (len(judgements.read(database, first)), len(judgements.read(database, second))) == (0, 1)


def test_judged_outputs_stay_however_old_they_are(database: Database) -> None:
    for model in ("judged", "last"):
        run(database, spec(model=model))
    judged = spec_id(database, "judged")
    with database.read() as transaction:
        content_id = transaction.scalar(select(OutcomeRow.content_id).where(OutcomeRow.spec_id == judged).limit(1))
    verdict = {"verdict": "good", "judged_by": "a", "judged_at": 1.0, "seed": 1}
    row = insert(Judgement).values(spec_id=judged, content_id=content_id, **verdict)
    database.write(lambda transaction: transaction.execute(row))
    days_pass(database, 30)
    assert needed.drop_unneeded(database, LIMIT_S) == Removed()
