"""Failures by reason and flagged outputs, which indexes of only these rows find."""

from __future__ import annotations

from typing import Any

import pytest

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Outcome, Reason, Spec, Status
from docmill.storage.errors import NotFound
from docmill.storage.leases.shards import Claim
from docmill.storage.results import marked
from docmill.storage.results.marked import flagged_page, group_reasons
from docmill.storage.results.results import results
from docmill.storage.steps.conditions import Flagged
from docmill.storage.steps.steps import StepRequest
from tests.storage.builders import TRANSLATE, Text, numbered, read, record_statements, request, run_job, work
from tests.storage.fleet import Fleet, pipeline
from tests.storage.steps.test_escalation import Models

FLAGS = {0: ("output_truncated", "windowed"), 1: ("windowed",), 2: ("language:fr",)}


def computed(claim: Claim) -> list[Outcome]:
    """Return outcomes by the number at the end of each text: every seventh text fails, and others have flags."""
    return [_outcome(content_id, text, int(text.split()[-1])) for content_id, text in claim.texts]


def _outcome(content_id: int, text: str, number: int) -> Outcome:
    if number % 7 == 0:
        reason = f"the server said 503 to request {number}" if number % 2 else "the text is empty"
        return Outcome(content_id, Status.FAILED, reason=reason, reason_class=Reason.TRANSIENT)
    return Outcome(content_id, Status.DONE, text=f"out of {text}", flags=FLAGS.get(number % 5, ()))


def run_texts(database: Database, texts: list[Text], corpus: str = "books") -> int:
    return run_job(database, request(corpus=corpus, spec=TRANSLATE), texts, computed).id


def read_pages(database: Database, job: int, limit: int, **more: Any) -> list[dict[str, Any]]:
    """Return the flagged outputs of all pages."""
    rows: list[dict[str, Any]] = []
    after = None
    for _ in range(200):
        page, after = flagged_page(database, job, after=after, limit=limit, **more)
        assert len(page) <= limit
        rows += page
        if after is None:
            return rows
    raise AssertionError("the pages do not end")


def test_texts_without_a_result_are_counted_by_reason_whatever_numbers_it_has(database: Database) -> None:
    job = run_texts(database, [*numbered(50), ("again", "text 7")])
    groups, are_all = group_reasons(database, job)
    server, empty = groups["translate"]
    assert are_all
    for group in (server, empty):
        assert (group.texts, group.status, group.reason_class) == (4, "failed", "transient")
    assert server.reason == "the server said 503 to request 7"
    assert server.documents[1:] == ("k21", "k35")
    assert empty.documents == ("k0", "k14", "k28")
    with pytest.raises(NotFound):
        group_reasons(database, 99)


def test_pages_of_flagged_outputs_have_each_output_once_beside_its_input(database: Database) -> None:
    job = run_texts(database, numbered(60))
    wanted = {row["id"]: row for row in results(database, job, with_input=True) if row["flags"]}
    assert len(wanted) > 25
    for limit in (1, 7, 100):
        rows = read_pages(database, job, limit)
        assert {row["id"]: row for row in rows} == wanted
        assert len(rows) == len(wanted)
    assert {row["id"] for row in read_pages(database, job, 7, flag="windowed")} == {
        key for key, row in wanted.items() if "windowed" in row["flags"]
    }
    assert read_pages(database, job, 7, flag="wrong_language") == []
    with pytest.raises(NotFound):
        flagged_page(database, job, "embed")


def test_each_job_of_a_spec_with_many_corpora_has_its_own_flagged_outputs(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [run_texts(database, numbered(40, first=100 * n), f"corpus-{n}") for n in range(1, 4)]
    # Its first documents have new texts, and the last two have texts that another corpus had before.
    job = run_texts(database, [*numbered(20, first=500), ("old", "text 106"), ("old failure", "text 105 7")])
    mine = {row["id"] for row in results(database, job) if row["flags"]}
    assert "old" in mine
    assert {row["id"] for row in read_pages(database, job, 5)} == mine
    assert sum(group.texts for group in group_reasons(database, job)[0]["translate"]) == 4
    of_another = {row["id"] for row in read_pages(database, others[1], 5)}
    assert of_another
    assert "old" not in of_another
    monkeypatch.setattr(marked, "LOOKED_AT", 20)
    monkeypatch.setattr(marked, "_PAGE", 10)
    assert {row["id"] for row in flagged_page(database, job, limit=20)[0]} >= mine - {"old"}  # its own first


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
    job = models.run_job()
    flags = {row["id"]: row["flags"] for row in read_pages(database, job.id, 2)}
    assert flags == {row["id"]: row["flags"] for row in results(database, job.id) if row["flags"]}
    assert flags["k2"] == ["windowed"]
    assert group_reasons(database, job.id) == ({}, True)


def test_outputs_of_texts_that_a_condition_leaves_out_belong_to_other_jobs(database: Database) -> None:
    english, second = StepRequest("english", TRANSLATE), Spec("copy", "copier", "sha256:2")

    def run(corpus: str, step: StepRequest) -> int:
        return run_job(database, request(corpus=corpus, steps=(english, step)), numbered(10), computed).id

    all_texts = run("one", StepRequest("copy", second, "english"))
    some = run("two", StepRequest("copy", second, "english", flagged=Flagged.parse(["output_truncated"])))
    for job in (all_texts, some):
        ids = {row["id"] for row in read_pages(database, job, 5, step="copy")}
        assert ids == {row["id"] for row in results(database, job, step="copy") if row["flags"]} != set()


@pytest.mark.parametrize("reader", [group_reasons, flagged_page])
def test_an_index_of_only_these_rows_finds_them(database: Database, reader: Any) -> None:
    job = run_texts(database, numbered(30))
    statements = record_statements(database)
    reader(database, job)
    of_outcomes = [(text, values) for text, values in statements if "ORDER BY outcome.content_id" in text]
    assert of_outcomes
    index = "ix_outcome_not_done" if reader is group_reasons else "ix_outcome_flagged"
    condition = "status != 'done'" if reader is group_reasons else "AS TEXT) != '[]'"
    for statement, values in of_outcomes:
        assert condition in statement  # a parameter would hide the partial index
        if database.server is None:  # PostgreSQL reads a table as small as this one by any index
            with database.read() as transaction:
                plan = transaction.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
            assert index in str(plan)
            assert "ix_document_content_id_corpus_id" in str(plan)
