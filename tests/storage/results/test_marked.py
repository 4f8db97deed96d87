"""Failures by reason and flagged outputs, read by indexes that hold only these."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Outcome, Reason, Spec, Status
from docmill.storage.errors import NotFound
from docmill.storage.leases.shards import Claim
from docmill.storage.results import marked
from docmill.storage.results.marked import flagged_page, group_reasons
from docmill.storage.results.results import results
from docmill.storage.steps.conditions import Flagged
from docmill.storage.steps.jobs import JobRequest
from docmill.storage.steps.steps import StepRequest
from tests.storage.builders import TRANSLATE, Text, finish, numbered, read, request, work
from tests.storage.steps.test_escalation import Models
from tests.storage.steps.test_steps import Fleet, pipeline

FLAGS = {0: ("output_truncated", "windowed"), 1: ("windowed",), 2: ("language:fr",)}


def computed(claim: Claim) -> list[Outcome]:
    """Outcomes by the number at a text's end: every seventh fails, and others carry flags."""
    return [_outcome(content_id, text, int(text.split()[-1])) for content_id, text in claim.texts]


def _outcome(content_id: int, text: str, number: int) -> Outcome:
    if number % 7 == 0:
        reason = f"the server said 503 to request {number}" if number % 2 else "the text is empty"
        return Outcome(content_id, Status.FAILED, reason=reason, reason_class=Reason.TRANSIENT)
    return Outcome(content_id, Status.DONE, text=f"out of {text}", flags=FLAGS.get(number % 5, ()))


def worked(database: Database, texts: list[Text], corpus: str = "books") -> int:
    job = read(database, request(f"{corpus}.jsonl", corpus=corpus, spec=TRANSLATE), texts)
    finish(database, computed)
    return job.id


def every(database: Database, job: int, limit: int, **more: Any) -> list[dict[str, Any]]:
    """Read all pages of flagged outputs."""
    found: list[dict[str, Any]] = []
    after = None
    for _ in range(200):
        page, after = flagged_page(database, job, after=after, limit=limit, **more)
        assert len(page) <= limit
        found += page
        if after is None:
            return found
    raise AssertionError("the pages do not end")


def test_texts_without_a_result_are_counted_by_reason_whatever_numbers_it_has(database: Database) -> None:
    job = worked(database, [*numbered(50), ("again", "text 7")])
    found, are_all = group_reasons(database, job)
    server, empty = found["translate"]
    assert are_all
    for group in (server, empty):
        assert (group.texts, group.status, group.reason_class) == (4, "failed", "transient")
    assert server.reason == "the server said 503 to request 7"
    assert server.documents[1:] == ("k21", "k35")
    assert empty.documents == ("k0", "k14", "k28")
    with pytest.raises(NotFound):
        group_reasons(database, 99)


def test_pages_of_flagged_outputs_have_each_output_once_beside_its_input(database: Database) -> None:
    job = worked(database, numbered(60))
    wanted = {one["id"]: one for one in results(database, job, with_input=True) if one["flags"]}
    assert len(wanted) > 25
    for limit in (1, 7, 100):
        found = every(database, job, limit)
        assert {one["id"]: one for one in found} == wanted
        assert len(found) == len(wanted)
    assert {one["id"] for one in every(database, job, 7, flag="windowed")} == {
        key for key, one in wanted.items() if "windowed" in one["flags"]
    }
    assert every(database, job, 7, flag="wrong_language") == []
    with pytest.raises(NotFound):
        flagged_page(database, job, "embed")


def test_a_spec_of_many_corpora_shows_each_job_its_own(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [worked(database, numbered(40, first=100 * n), f"corpus-{n}") for n in range(1, 4)]
    # Its first document has a new text, and a later one a text that another corpus had before.
    job = worked(database, [*numbered(20, first=500), ("old", "text 106"), ("old failure", "text 105 7")])
    mine = {one["id"] for one in results(database, job) if one["flags"]}
    assert "old" in mine
    assert {one["id"] for one in every(database, job, 5)} == mine
    assert sum(group.texts for group in group_reasons(database, job)[0]["translate"]) == 4
    of_another = {one["id"] for one in every(database, others[1], 5)}
    assert of_another
    assert "old" not in of_another
    monkeypatch.setattr(marked, "LOOKED_AT", 20)
    monkeypatch.setattr(marked, "_PAGE", 10)
    assert {one["id"] for one in flagged_page(database, job, limit=20)[0]} >= mine - {"old"}  # its own first


def test_failures_of_later_steps_have_their_documents(database: Database, fleet: Fleet) -> None:
    fleet.fails = lambda kind, text: (kind, text[-1:]) == ("translate", "1") or (kind == "embed" and "3" in text)
    job = read(database, pipeline(), numbered(5))
    work(database, fleet.outcomes)
    reasons, _ = group_reasons(database, job.id)
    failed = {step: [(group.texts, group.documents) for group in groups] for step, groups in reasons.items()}
    assert failed == {"english": [(1, ("k1",))], "vector": [(1, ("k3",))], "original": [(1, ("k3",))]}


def test_a_result_that_an_escalation_replaced_is_not_shown_as_flagged(database: Database) -> None:
    models = Models(database)
    models.large = {"2": ("windowed",)}
    models.refused = "0"
    job = models.done()
    found = {one["id"]: one["flags"] for one in every(database, job.id, 2)}
    assert found == {one["id"]: one["flags"] for one in results(database, job.id) if one["flags"]}
    assert found["k2"] == ["windowed"]
    assert group_reasons(database, job.id) == ({}, True)


def test_what_a_condition_does_not_select_is_of_another_job(database: Database) -> None:
    english, second = StepRequest("english", TRANSLATE), Spec("copy", "copier", "sha256:2")

    def run(corpus: str, step: StepRequest) -> int:
        asked = JobRequest(corpus=corpus, source="a.jsonl", steps=(english, step))
        job = read(database, asked, numbered(10))
        finish(database, computed)
        return job.id

    every_text = run("one", StepRequest("copy", second, "english"))
    some = run("two", StepRequest("copy", second, "english", flagged=Flagged.parse(["output_truncated"])))
    for job in (every_text, some):
        shown = {one["id"] for one in every(database, job, 5, step="copy")}
        assert shown == {one["id"] for one in results(database, job, step="copy") if one["flags"]} != set()


@pytest.mark.parametrize("reader", [group_reasons, flagged_page])
def test_they_are_found_by_an_index_that_holds_only_them(database: Database, reader: Any) -> None:
    job = worked(database, numbered(30))
    statements: list[tuple[str, Any]] = []
    event.listen(database.engine, "before_cursor_execute", lambda *given: statements.append((given[2], given[3])))
    reader(database, job)
    asked = [one for one in statements if "ORDER BY outcome.content_id" in one[0]]
    assert asked
    index = "ix_outcome_not_done" if reader is group_reasons else "ix_outcome_flagged"
    condition = "status != 'done'" if reader is group_reasons else "AS TEXT) != '[]'"
    for statement, values in asked:
        assert condition in statement  # a parameter would hide the partial index
        if database.server is None:  # PostgreSQL reads a table as small as this one by any index
            with database.read() as transaction:
                plan = transaction.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
            assert index in str(plan)
            assert "ix_document_content_id_corpus_id" in str(plan)
