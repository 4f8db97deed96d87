"""Jobs of several steps: each step reads the outputs of an earlier one, and plans each of them once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
from sqlalchemy import select, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import OutcomeRow, Shard
from docmill.storage.core.specs import Outcome, Reason, Spec, Status
from docmill.storage.leases import dispatch, shards
from docmill.storage.leases.diagnosis import Cause
from docmill.storage.leases.shards import Claim
from docmill.storage.results.results import failures, results
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs
from docmill.storage.steps.conditions import Bound, Doubt, Flagged, parse_flags
from docmill.storage.steps.jobs import OpenJob
from docmill.storage.steps.sharding import unpack
from docmill.storage.steps.steps import EscalationRequest, StepRequest
from tests.storage.builders import (
    TRANSLATE,
    Text,
    at_once,
    claim_next,
    claim_shard,
    dispatch_shards,
    numbered,
    read,
    request,
    shards_of,
    sign_on,
)
from tests.storage.fleet import STEPS, Fleet, finish_job, pipeline
from tests.storage.invariants import assert_invariants


def planned(database: Database, job: OpenJob, name: str) -> Counter[int]:
    """Count each content in a step's shards."""
    seq = next(step.seq for step in job.steps if step.name == name)
    return Counter(
        content_id for row in shards_of(database, job) if row.step == seq for content_id in unpack(row.contents)
    )


def test_every_step_has_its_results_for_every_document(database: Database, fleet: Fleet) -> None:
    job = read(database, pipeline(), numbered(300))
    status = fleet.end(job)
    assert [(step.name, step.input, step.done, step.blocked) for step in status.steps] == [
        ("english", None, 300, 0),
        ("line", "english", 300, 0),
        ("vector", "line", 300, 0),
        ("original", None, 300, 0),
    ]
    rows = list(results(database, job.id, with_input=True))
    assert [row["id"] for row in rows] == [f"k{n}" for n in range(300)]
    assert rows[7]["input"] == "text 7"
    assert rows[7]["steps"]["english"]["text"] == "translate(text 7)"
    assert rows[7]["steps"]["line"]["text"] == "summarize(translate(text 7))"
    assert rows[7]["steps"]["vector"]["vector"].tolist() == [1.0]
    assert list(failures(database, job.id)) == []


def test_a_repeated_commit_plans_the_next_step_once_and_the_job_ends_with_that(
    database: Database, fleet: Fleet
) -> None:
    job = read(database, request(steps=STEPS[:2]), numbered(5))
    claim = claim_next(database)
    outcomes = fleet.outcomes(claim)
    for _ in range(2):
        shards.commit(database, claim, outcomes, None)
    assert set(planned(database, job, "line").values()) == {1}
    assert jobs.finish(database) == []
    fleet.work()
    assert jobs.finish(database) == [job.id]


def test_shards_committed_at_once_with_one_output_plan_it_once(database: Database) -> None:
    job = read(database, request(steps=STEPS[:2]), numbered(250))
    claims = [claim_shard(database, shard_id) for shard_id in dispatch_shards(database)]
    assert len(claims) == 4

    def commit(claim: Claim) -> None:
        outcomes = [Outcome(number, Status.DONE, text=f"text {number % 7}") for number, _ in claim.texts]
        shards.commit(database, claim, outcomes, None)

    at_once(*[partial(commit, claim) for claim in claims])
    assert set(planned(database, job, "line").values()) == {1}
    assert len(planned(database, job, "line")) == 7


def test_a_failure_blocks_later_steps_with_its_reason_until_a_retry(database: Database, fleet: Fleet) -> None:
    fleet.fails = lambda kind, text: text in {"text 1", "translate(text 2)"}
    job = read(database, request(steps=STEPS[:3]), numbered(4))
    status = fleet.end(job)
    assert [(step.done, step.failed, step.blocked) for step in status.steps] == [(3, 1, 0), (2, 1, 1), (2, 0, 2)]
    rows = [(row["id"], row["step"], row["status"], row["reason"]) for row in failures(database, job.id)]
    assert rows == [
        ("k1", "english", "failed", "it would not"),
        ("k1", "line", "blocked", "english failed: it would not"),
        ("k1", "vector", "blocked", "english failed: it would not"),
        ("k2", "line", "failed", "it would not"),
        ("k2", "vector", "blocked", "line failed: it would not"),
    ]
    assert {row["class"] for row in failures(database, job.id)} == {"document"}
    assert [row["id"] for row in results(database, job.id, step="vector")] == ["k0", "k3"]
    fleet.fails = lambda kind, text: False
    assert jobs.retry(database, job.id) == 2
    status = fleet.end(job)
    assert [(step.done, step.failed, step.blocked) for step in status.steps] == [(4, 0, 0)] * 3


@pytest.mark.parametrize("flagged", [None, Flagged(lacking=True)])
def test_a_retry_passes_on_a_failed_text_that_another_job_has_computed_since(
    database: Database, fleet: Fleet, flagged: Flagged | None
) -> None:
    fleet.fails = lambda kind, text: text == "text 1"
    job = read(database, request(steps=(STEPS[0], replace(STEPS[1], flagged=flagged))), numbered(2))
    fleet.work()
    assert [(step.done, step.failed) for step in finish_job(database, job).steps] == [(1, 1), (1, 0)]
    fleet.fails = lambda kind, text: False
    repeating = read(database, pipeline("b.jsonl", steps=STEPS[:1]), numbered(2))
    assert jobs.retry(database, repeating.id) == 1
    fleet.finish()
    assert_invariants(database)
    fleet.computed.clear()
    assert jobs.retry(database, job.id) == 1
    fleet.work()
    assert fleet.computed == Counter([("summarize", "translate(text 1)")])
    assert [(step.done, step.failed, step.blocked) for step in finish_job(database, job).steps] == [(2, 0, 0)] * 2


@pytest.mark.parametrize(
    ("failing", "share"),
    [({"translate(text 1)", "translate(text 2)"}, "2 of 12"), ({"text 3", "text 4", "text 5"}, "3 of 9")],
)
def test_retried_failures_of_an_earlier_job_do_not_outweigh_new_ones(
    database: Database, fleet: Fleet, failing: set[str], share: str
) -> None:
    fleet.fails = lambda kind, text: True
    fleet.run_job(pipeline("a", STEPS[:1]), numbered(3))
    job = read(database, pipeline("b", STEPS[:2], max_failures=15.0), numbered(6))
    assert jobs.retry(database, job.id) == 3
    fleet.fails = lambda kind, text: text in failing
    fleet.finish()
    assert read_status(database, job.id).reason == f"more than 15 % of its texts failed ({share})"


def test_retried_failures_do_not_count_beside_those_that_are_not_retried(database: Database, fleet: Fleet) -> None:
    fleet.fails = lambda kind, text: True
    fleet.run_job(pipeline("a", STEPS[:1]), numbered(3))
    database.execute(update(OutcomeRow).values(reason_class=Reason.MODEL))
    job = read(database, pipeline("b", STEPS[:1], max_failures=60.0), numbered(6))
    fleet.finish()
    assert read_status(database, job.id).state == "stopped"
    assert jobs.retry(database, job.id, Reason.DOCUMENT) == 3
    fleet.finish()
    assert read_status(database, job.id).reason == "more than 60 % of its texts failed (3 of 3)"
    fleet.fails = lambda kind, text: False
    assert jobs.retry(database, job.id, Reason.DOCUMENT) == 3
    fleet.finish()
    assert read_status(database, job.id).state == "done"


def test_only_changed_texts_are_computed_at_every_step(database: Database, fleet: Fleet) -> None:
    fleet.run_job(pipeline(), numbered(300))
    fleet.computed.clear()
    changed: list[Text] = [
        (key, f"{text}, changed" if n % 100 == 0 else text) for n, (key, text) in enumerate(numbered(300))
    ]
    job = read(database, pipeline(), changed)
    fleet.work()
    texts = [f"text {n}, changed" for n in (0, 100, 200)]
    assert fleet.computed == Counter(
        [("translate", text) for text in texts]
        + [("embed", text) for text in texts]
        + [("summarize", f"translate({text})") for text in texts]
        + [("embed", f"summarize(translate({text}))") for text in texts]
    )
    status = finish_job(database, job)
    assert [step.done for step in status.steps] == [300] * 4


def test_the_same_request_adopts_an_unfinished_job_and_a_different_request_does_not(database: Database) -> None:
    large = Spec("translate", "large", "sha256:4")
    unsure = Doubt(bounds=(Bound("confidence", is_below=True, value=0.4),))
    flagged = [Flagged(), Flagged(lacking=True), Flagged(parse_flags(["empty", "windowed"]))]
    better = [
        EscalationRequest(large),
        EscalationRequest(large, unsure),
        EscalationRequest(replace(large, revision="2")),
    ]
    steps: list[Sequence[StepRequest]] = [STEPS, STEPS[:2], STEPS[:1]]
    steps += [(STEPS[0], replace(STEPS[1], flagged=condition)) for condition in flagged]
    steps += [(replace(STEPS[0], escalation=escalation),) for escalation in better]
    requests = [*(pipeline(steps=some_steps) for some_steps in steps), pipeline(options={"text_field": "body"})]
    opened, again = ([jobs.open_job(database, job_request) for job_request in requests] for _ in range(2))
    assert [job.id for job in opened] == [*range(1, len(requests) + 1)]
    assert [(job.id, job.steps) for job in again] == [(job.id, job.steps) for job in opened]
    assert [{job.adopted for job in jobs_} for jobs_ in (opened, again)] == [{False}, {True}]


def test_a_step_that_nobody_can_serve_holds_no_other_one_back(database: Database, fleet: Fleet) -> None:
    sign_on(database, "w1", "translate", "embed")
    unknown = StepRequest("backwards", Spec("translate", "lost", "sha256:9"))
    job = read(database, request(steps=[unknown, *STEPS[:1]]), numbered(100))
    dispatch.refuse(database, "w1", job.steps[0].spec_id, "cannot serve it: no weights")
    fleet.work()
    open_steps = set(database.values(select(Shard.step).where(Shard.job_id == job.id, Shard.state != "done")))
    assert open_steps == {0}
    status = read_status(database, job.id)
    assert (status.waiting_cause, status.steps[1].done) == (Cause.BLOCKED, 100)


def test_an_output_stored_without_a_later_step_gets_its_content_later(database: Database, fleet: Fleet) -> None:
    """The database of an earlier release has such outputs."""
    fleet.run_job(request(spec=TRANSLATE), numbered(3))
    assert set(database.values(select(OutcomeRow.output_id))) == {None}
    job = read(database, request(steps=STEPS[:2]), numbered(3))
    assert None not in set(database.values(select(OutcomeRow.output_id)))
    assert len(planned(database, job, "line")) == 3
