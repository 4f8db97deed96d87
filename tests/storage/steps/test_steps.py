"""Jobs of several steps: what one puts out is what the next reads, once, whatever happens in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

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
from docmill.storage.steps.jobs import JobRequest, OpenJob
from docmill.storage.steps.sharding import unpack
from docmill.storage.steps.steps import EscalationRequest, StepRequest
from tests.storage.builders import (
    TRANSLATE,
    Text,
    at_once,
    claim_next,
    claim_shard,
    commit_next,
    dispatched,
    finish,
    numbered,
    read,
    request,
    shard,
    shards_of,
    sign_on,
    work,
)
from tests.storage.invariants import assert_invariants

SUMMARIZE = Spec("summarize", "synopsis", "sha256:3")
EMBED = Spec("embed", "minilm", "sha256:1")
STEPS = (
    StepRequest("english", TRANSLATE),
    StepRequest("line", SUMMARIZE, "english"),
    StepRequest("vector", EMBED, "line"),
    StepRequest("original", EMBED),
)


def pipeline(source: str = "a.jsonl", steps: Sequence[StepRequest] = STEPS) -> JobRequest:
    return JobRequest(corpus="books", source=source, steps=tuple(steps))


class Fleet:
    """Does every claim: a text step puts the text in brackets, with its kind before them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.computed: Counter[tuple[str, str]] = Counter()
        self.fails: Callable[[str, str], bool] = lambda kind, text: False

    def outcomes(self, claim: Claim) -> list[Outcome]:
        kind = str(shard(self._database, claim.shard_id).lane)
        return [self._outcome(kind, content_id, text) for content_id, text in claim.texts]

    def _outcome(self, kind: str, content_id: int, text: str) -> Outcome:
        self.computed[kind, text] += 1
        if self.fails(kind, text):
            return Outcome(content_id, Status.FAILED, reason="it would not", reason_class=Reason.DOCUMENT)
        if kind == "embed":
            return Outcome(content_id, Status.DONE, vector=b"\0\0\x80?")
        return Outcome(content_id, Status.DONE, text=f"{kind}({text})")

    def work(self) -> int:
        return work(self._database, self.outcomes)

    def finish(self) -> None:
        """Work until nothing is left, and end the jobs."""
        finish(self._database, self.outcomes)

    def end(self, job: OpenJob) -> Any:
        """Work until nothing is left, and return the status of a job that is done then."""
        self.work()
        return finished(self._database, job)

    def done(self, asked: JobRequest, texts: Sequence[Text]) -> OpenJob:
        """Return a job that read these texts and has ended."""
        job = read(self._database, asked, texts)
        self.finish()
        assert read_status(self._database, job.id).state == "done"
        return job


def finished(database: Database, job: OpenJob) -> Any:
    jobs.finish(database, job.id)
    status = read_status(database, job.id)
    assert status.state == "done"
    return status


def planned(database: Database, job: OpenJob, step: str) -> Counter[int]:
    """Count each content in a step's shards."""
    seq = next(one.seq for one in job.steps if one.name == step)
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
    found = list(results(database, job.id, with_input=True))
    assert [one["id"] for one in found] == [f"k{n}" for n in range(300)]
    assert found[7]["input"] == "text 7"
    assert found[7]["steps"]["english"]["text"] == "translate(text 7)"
    assert found[7]["steps"]["line"]["text"] == "summarize(translate(text 7))"
    assert found[7]["steps"]["vector"]["vector"].tolist() == [1.0]
    assert list(failures(database, job.id)) == []


def test_a_commit_that_happens_twice_leads_on_once(database: Database, fleet: Fleet) -> None:
    job = read(database, pipeline(steps=STEPS[:2]), numbered(5))
    claim = claim_next(database)
    outcomes = fleet.outcomes(claim)
    for _ in range(2):
        shards.commit(database, claim, outcomes, None)
    assert set(planned(database, job, "line").values()) == {1}


def test_shards_committed_at_once_with_one_output_plan_it_once(database: Database) -> None:
    job = read(database, pipeline(steps=STEPS[:2]), numbered(250))
    claims = [claim_shard(database, shard_id) for shard_id in dispatched(database)]
    assert len(claims) == 4

    def commit(claim: Claim) -> None:
        outcomes = [
            Outcome(content_id, Status.DONE, text=f"one of {content_id % 7}") for content_id, _ in claim.texts
        ]
        shards.commit(database, claim, outcomes, None)

    at_once(*[lambda claim=claim: commit(claim) for claim in claims if claim is not None])
    assert set(planned(database, job, "line").values()) == {1}
    assert len(planned(database, job, "line")) == 7


def test_what_failed_is_blocked_further_down_and_says_why_until_a_retry(database: Database, fleet: Fleet) -> None:
    fleet.fails = lambda kind, text: text in {"text 1", "translate(text 2)"}
    job = read(database, pipeline(steps=STEPS[:3]), numbered(4))
    status = fleet.end(job)
    counted = [(step.done, step.failed, step.blocked) for step in status.steps]
    assert counted == [(3, 1, 0), (2, 1, 1), (2, 0, 2)]
    by_english = "english failed: it would not"
    assert list(failures(database, job.id)) == [
        {"id": "k1", "step": "english", "status": "failed", "class": "document", "reason": "it would not"},
        {"id": "k1", "step": "line", "status": "blocked", "class": "document", "reason": by_english},
        {"id": "k1", "step": "vector", "status": "blocked", "class": "document", "reason": by_english},
        {"id": "k2", "step": "line", "status": "failed", "class": "document", "reason": "it would not"},
        {
            "id": "k2",
            "step": "vector",
            "status": "blocked",
            "class": "document",
            "reason": "line failed: it would not",
        },
    ]
    assert [one["id"] for one in results(database, job.id, step="vector")] == ["k0", "k3"]
    fleet.fails = lambda kind, text: False
    assert jobs.retry(database, job.id) == 2
    status = fleet.end(job)
    assert [(step.done, step.failed, step.blocked) for step in status.steps] == [(4, 0, 0)] * 3


@pytest.mark.parametrize("flagged", [None, Flagged(lacking=True)])
def test_a_retry_passes_on_a_text_that_failed_in_this_job_and_that_another_has_computed_since(
    database: Database, fleet: Fleet, flagged: Flagged | None
) -> None:
    fleet.fails = lambda kind, text: text == "text 1"
    job = read(database, pipeline(steps=(STEPS[0], replace(STEPS[1], flagged=flagged))), numbered(2))
    fleet.work()
    assert [(step.done, step.failed) for step in finished(database, job).steps] == [(1, 1), (1, 0)]
    fleet.fails = lambda kind, text: False
    other = read(database, pipeline("b.jsonl", steps=STEPS[:1]), numbered(2))
    assert jobs.retry(database, other.id) == 1
    fleet.finish()
    assert_invariants(database)
    fleet.computed.clear()
    assert jobs.retry(database, job.id) == 1
    fleet.work()
    assert fleet.computed == Counter([("summarize", "translate(text 1)")])
    assert [(step.done, step.failed, step.blocked) for step in finished(database, job).steps] == [(2, 0, 0)] * 2


@pytest.mark.parametrize(
    ("failing", "share"),
    [({"translate(text 1)", "translate(text 2)"}, "2 of 12"), ({"text 3", "text 4", "text 5"}, "3 of 9")],
)
def test_retried_failures_of_an_earlier_job_do_not_outweigh_new_ones(
    database: Database, fleet: Fleet, failing: set[str], share: str
) -> None:
    fleet.fails = lambda kind, text: True
    fleet.done(pipeline("a", STEPS[:1]), numbered(3))
    job = read(database, replace(pipeline("b", STEPS[:2]), max_failures=15.0), numbered(6))
    assert jobs.retry(database, job.id) == 3
    fleet.fails = lambda kind, text: text in failing
    fleet.finish()
    assert read_status(database, job.id).reason == f"more than 15 % of its texts failed ({share})"


def test_failures_that_are_tried_again_do_not_count_beside_known_ones_that_are_not(
    database: Database, fleet: Fleet
) -> None:
    fleet.fails = lambda kind, text: True
    fleet.done(pipeline("a", STEPS[:1]), numbered(3))
    of_model = update(OutcomeRow).values(reason_class=Reason.MODEL)
    database.execute(of_model)
    job = read(database, replace(pipeline("b", STEPS[:1]), max_failures=60.0), numbered(6))
    fleet.finish()
    assert read_status(database, job.id).state == "stopped"
    assert jobs.retry(database, job.id, Reason.DOCUMENT) == 3
    fleet.finish()
    assert read_status(database, job.id).reason == "more than 60 % of its texts failed (3 of 3)"
    fleet.fails = lambda kind, text: False
    assert jobs.retry(database, job.id, Reason.DOCUMENT) == 3
    fleet.finish()
    assert read_status(database, job.id).state == "done"


def test_only_what_changed_is_computed_and_at_every_step(database: Database, fleet: Fleet) -> None:
    fleet.done(pipeline(), numbered(300))
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
    status = finished(database, job)
    assert [step.done for step in status.steps] == [300] * 4


def test_the_same_request_adopts_an_unfinished_job_and_another_one_does_not(database: Database) -> None:
    large = Spec("translate", "large", "sha256:4")
    unsure = Doubt(bounds=(Bound("confidence", is_below=True, value=0.4),))
    flagged = [Flagged(), Flagged(lacking=True), Flagged(parse_flags(["empty", "windowed"]))]
    better = [
        EscalationRequest(large),
        EscalationRequest(large, unsure),
        EscalationRequest(replace(large, revision="2")),
    ]
    steps: list[Sequence[StepRequest]] = [STEPS, STEPS[:2], STEPS[:1]]
    steps += [(STEPS[0], replace(STEPS[1], flagged=one)) for one in flagged]
    steps += [(replace(STEPS[0], escalation=one),) for one in better]
    asked = [*(pipeline(steps=some) for some in steps), replace(pipeline(), options={"text_field": "body"})]
    opened, again = ([jobs.open_job(database, one) for one in asked] for _ in range(2))
    assert [job.id for job in opened] == [*range(1, len(asked) + 1)]
    assert [(job.id, job.steps) for job in again] == [(job.id, job.steps) for job in opened]
    assert [{job.adopted for job in some} for some in (opened, again)] == [{False}, {True}]


def test_a_job_ends_only_when_its_last_step_has(database: Database, fleet: Fleet) -> None:
    job = read(database, pipeline(steps=STEPS[:2]), numbered(5))
    commit_next(database, fleet.outcomes)
    assert jobs.finish(database) == []
    fleet.work()
    assert jobs.finish(database) == [job.id]


def test_a_step_that_nobody_can_serve_holds_no_other_one_back(database: Database, fleet: Fleet) -> None:
    sign_on(database, "w1", "translate", "embed")
    unknown = StepRequest("backwards", Spec("translate", "lost", "sha256:9"))
    job = read(database, pipeline(steps=[unknown, *STEPS[:1]]), numbered(100))
    dispatch.refuse(database, "w1", job.steps[0].spec_id, "cannot serve it: no weights")
    fleet.work()
    left = set(database.values(select(Shard.step).where(Shard.job_id == job.id, Shard.state != "done")))
    assert left == {0}
    status = read_status(database, job.id)
    assert (status.waiting_cause, status.steps[1].done) == (Cause.BLOCKED, 100)


def test_an_output_that_was_stored_without_a_follower_gets_its_content_later(
    database: Database, fleet: Fleet
) -> None:
    """As a database has it that an earlier release filled."""
    fleet.done(request(spec=TRANSLATE), numbered(3))
    assert set(database.values(select(OutcomeRow.output_id))) == {None}
    job = read(database, pipeline(steps=STEPS[:2]), numbered(3))
    assert None not in set(database.values(select(OutcomeRow.output_id)))
    assert len(planned(database, job, "line")) == 3
