"""The provenance of a result: what the store kept of its document, its steps and what computed it."""

from __future__ import annotations

import pytest
from sqlalchemy import delete

from docmill.features.explaining.provenance import read_provenance
from docmill.storage.core.database import Database
from docmill.storage.core.schema import OutcomeRow
from docmill.storage.core.specs import Outcome, Spec, Status
from docmill.storage.deletion import gc
from docmill.storage.errors import NotFound
from docmill.storage.leases import shards
from docmill.storage.readers import Rejection
from docmill.storage.steps.conditions import Flagged
from docmill.storage.steps.jobs import JobRequest
from docmill.storage.steps.steps import StepRequest
from tests.storage.builders import (
    EMBED,
    claim_next,
    failed,
    finish,
    make_chunk,
    numbered,
    read,
    read_chunk,
    records,
    request,
    work,
)
from tests.storage.steps.test_escalation import ALONE, LARGE, Models

COPIED = Spec("copy", "copier", "sha256:1")
RUNTIME = {"device": "cpu", "precision": "float32", "backend": "copier", "versions": {"python": "3"}}


def test_a_result_has_its_document_spec_and_runtime(database: Database) -> None:
    job = read_chunk(database, request(), make_chunk(("k", "a text", {"year": 1900}, ("nul_replaced",), 0)))
    claim = claim_next(database, "host:cpu:1")
    [(content_id, _)] = claim.texts
    outcome = Outcome(content_id, Status.DONE, text="out", flags=("windowed",), tokens_in=4, tokens_out=3)
    shards.commit(database, claim, [outcome], RUNTIME)
    provenance = read_provenance(database, job.id, "k")
    assert (provenance.corpus, provenance.source, provenance.document) == ("books", "a.jsonl", "k")
    assert (provenance.text, provenance.meta, provenance.flags) == ("a text", {"year": 1900}, ("nul_replaced",))
    assert (provenance.changed, provenance.gone) == (False, False)
    (step,) = provenance.way
    assert (step.name, step.reads, step.spec, step.text, step.content) == ("copy", None, COPIED, "a text", "a text")
    assert step.outcome is not None
    assert (step.outcome.output, step.outcome.flags) == ({"text": "out"}, ("windowed",))
    assert step.outcome.runtime == RUNTIME
    assert (step.outcome.tokens_in, step.outcome.tokens_out) == (4, 3)


def test_without_a_step_the_last_one_with_a_result_is_explained_and_the_others_are_named(database: Database) -> None:
    second, third = Spec("copy", "copier", "sha256:2"), Spec("copy", "copier", "sha256:3")
    job_request = JobRequest(
        corpus="books",
        source="a.jsonl",
        steps=(
            StepRequest("one", COPIED),
            StepRequest("two", second, "one"),
            StepRequest("aside", third),
            StepRequest("last", EMBED, "two"),
        ),
    )
    job = read(database, job_request, [("k", "a text")])

    def some(claim: shards.Claim) -> list[Outcome]:
        if claim.spec_id == 4:
            return failed(claim)
        return [Outcome(content, Status.DONE, text=f"{text} {claim.spec_id}") for content, text in claim.texts]

    work(database, some)
    provenance = read_provenance(database, job.id, "k")
    assert [step.name for step in provenance.way] == ["aside"]
    assert provenance.others == ("one", "two", "last")
    two = read_provenance(database, job.id, "k", "two")
    assert [(step.name, step.reads, step.text) for step in two.way] == [
        ("one", None, "a text"),
        ("two", "one", "a text 1"),
    ]
    last = read_provenance(database, job.id, "k", "last").step
    assert last.outcome is not None
    assert (last.outcome.status, last.outcome.reason, last.outcome.output) == ("failed", "it would not", {})
    with pytest.raises(NotFound, match="the job has one, two, aside, last"):
        read_provenance(database, job.id, "k", "third")


def test_what_is_not_computed_yet_has_no_outcome_and_what_was_removed_says_so(database: Database) -> None:
    job = read(database, request(), numbered(2))
    step = read_provenance(database, job.id, "k1").step
    assert (step.outcome, step.removed) == (None, False)
    finish(database)
    gc.drop(database)
    step = read_provenance(database, job.id, "k1").step
    assert (step.outcome, step.removed) == (None, True)


def test_a_result_is_missing_and_not_removed_if_no_result_of_its_spec_was_dropped(database: Database) -> None:
    job = read(database, request(), numbered(2))
    finish(database)
    database.write(lambda transaction: transaction.execute(delete(OutcomeRow)))
    step = read_provenance(database, job.id, "k1").step
    assert (step.outcome, step.removed) == (None, False)


def test_a_document_that_a_steps_condition_leaves_out_says_so(database: Database) -> None:
    steps = (
        StepRequest("one", COPIED),
        StepRequest("some", Spec("copy", "copier", "sha256:3"), "one", flagged=Flagged.parse(["empty"])),
    )
    job = read(database, JobRequest(corpus="books", source="a.jsonl", steps=steps), [("k", "a text")])
    finish(database)
    provenance = read_provenance(database, job.id, "k", "some")
    assert (provenance.step.text, provenance.step.removed) == (None, False)
    assert provenance.left_out == "not flagged empty"


def test_a_rejected_record_and_a_document_of_another_time_are_refused_with_the_reason(database: Database) -> None:
    job = read_chunk(database, request(), records([("k", "a text")]), [Rejection("a.jsonl:2", "it is no JSON")])
    finish(database)
    later = read(database, request("b.jsonl"), [("late", "another")])
    with pytest.raises(NotFound, match="rejected when job 1 read its source: it is no JSON"):
        read_provenance(database, job.id, "a.jsonl:2")
    with pytest.raises(NotFound, match="docmill failures"):
        read_provenance(database, job.id, "zzz")
    with pytest.raises(NotFound, match="came or changed after the job"):
        read_provenance(database, job.id, "late")
    read(database, request("c.jsonl"), [("k", "a newer text")])
    provenance = read_provenance(database, job.id, "k")
    assert (provenance.text, provenance.changed) == ("a text", True)
    assert read_provenance(database, later.id, "late").document == "late"


def test_the_provenance_of_a_doubted_result_has_both_outcomes(database: Database) -> None:
    models = Models(database)
    models.small = {"0": ("empty",), "2": ("empty",), "4": ("empty",)}
    models.large = {"4": ("empty", "repetition")}
    models.refused = "2"
    job = models.run_job(ALONE)
    won = read_provenance(database, job.id, "k0").step
    assert won.escalation is not None
    assert won.escalation.second_won
    assert (won.spec, won.outcome) == (LARGE, won.escalation.second)
    assert won.escalation.first.output == {"text": "marian(text 0)"}
    for key, status in (("k2", "failed"), ("k4", "done")):
        kept = read_provenance(database, job.id, key).step
        assert kept.escalation is not None
        assert kept.escalation.second is not None
        assert kept.escalation.second.status == status
        assert (kept.spec, kept.outcome) == (ALONE[0].spec, kept.escalation.first)
    assert read_provenance(database, job.id, "k1").step.escalation is None
