"""Superseded versions of documents are deleted with the rows that only they referenced."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Document, Ingest, PipelineRun, Prompt, db_now
from docmill.storage.core.specs import Outcome, Spec, Status
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion import gc, paging, removal
from docmill.storage.deletion.paging import Removed
from docmill.storage.leases import shards
from docmill.storage.results.results import failures, results
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs
from tests.storage.aging import days_pass
from tests.storage.builders import (
    TRANSLATE,
    Text,
    assert_status,
    claim_next,
    count_rows,
    documents,
    done,
    finish,
    fire_run,
    keep_pipeline,
    numbered,
    read,
    request,
    run_job,
)
from tests.storage.deletion.test_gc import texts
from tests.storage.fleet import Fleet, pipeline
from tests.storage.ingest.test_pruning import read_and_prune


def read_all(database: Database, texts: list[Text], **more: Any) -> None:
    """Read a source to its end, and work its job off."""
    run_job(database, request(**more), texts, chunk=2)


def count_versions(database: Database, older_than_s: float) -> Removed:
    """Count the rows that a removal of superseded versions would delete."""
    with database.read() as transaction:
        return removal.count_versions(transaction, older_than_s)


def test_superseded_versions_are_deleted_with_rows_that_only_they_referenced(
    database: Database, fleet: Fleet
) -> None:
    first = fleet.run_job(pipeline(), [("a", "old"), ("b", "kept")])
    second = fleet.run_job(pipeline(), [("a", "new"), ("b", "kept")])
    assert count_versions(database, 0) == Removed(documents=1)
    # The text "old", its translation and the summary of that; and their results, with two vectors.
    assert removal.remove_versions(database, 0) == Removed(documents=1, contents=3, outcomes=4)
    outputs = {"translate({})", "summarize(translate({}))"}
    assert texts(database) == {"new", "kept"} | {form.format(t) for form in outputs for t in ("new", "kept")}
    assert [row["id"] for row in results(database, second.id)] == ["a", "b"]
    # The earlier job has lost the document, and still shows the other one.
    assert [row["id"] for row in results(database, first.id)] == ["b"]
    assert list(failures(database, first.id)) == []
    assert_status(database, first.id, state="done", lost=0, removed=1)
    assert read_status(database, second.id).removed == 0
    assert documents(database) == {"a": "new", "b": "kept"}
    assert removal.remove_versions(database, 0) == Removed()
    assert gc.collect(database) == Removed()


def test_the_age_of_a_version_counts_from_when_it_was_superseded(database: Database) -> None:
    read_all(database, [("a", "one"), ("b", "one b")])
    days_pass(database, 100)
    read_all(database, [("a", "two"), ("b", "one b")])
    assert count_versions(database, 90 * 86_400) == Removed()
    days_pass(database, 89)
    assert removal.remove_versions(database, 90 * 86_400) == Removed()
    days_pass(database, 2)
    read_all(database, [("a", "three"), ("b", "one b")])
    removed = removal.remove_versions(database, 90 * 86_400)
    assert (removed.documents, removed.contents) == (1, 1)
    assert texts(database) == {"one b", "two", "three"}


def test_an_ingest_is_deleted_when_no_document_or_job_needs_it(database: Database) -> None:
    for text in ("one", "two", "three"):
        read_all(database, [("a", text)])
    assert removal.remove_versions(database, 0).ingests == 0
    assert count_rows(database, Ingest) == 3, "their jobs still exist"

    def forget_jobs(transaction: Transaction) -> None:
        for table in ("shard", "step_text", "step", "job"):
            transaction.exec_driver_sql(f"DELETE FROM {table}")

    database.write(forget_jobs)
    assert count_versions(database, 3_600) == Removed()
    assert count_versions(database, 0) == Removed(ingests=2)
    assert removal.remove_versions(database, 0) == Removed(ingests=2)
    assert count_rows(database, Ingest) == 1, "the current version came with it"
    read_all(database, [("a", "four")])
    assert count_versions(database, 0) == Removed(documents=1, ingests=1), "the reading goes with its last document"
    assert removal.remove_versions(database, 0) == Removed(1, 1, 1, 0, 1)


@pytest.mark.parametrize("is_read", [True, False], ids=["read", "half read"])
def test_the_versions_of_an_unfinished_job_stay_until_it_is_done(database: Database, is_read: bool) -> None:
    job = read(database, request(), numbered(4), chunk=2, stop_after=None if is_read else 1)
    claim = claim_next(database)
    cancelled = read(
        database, request("b.jsonl", spec=TRANSLATE), [(key, f"new {text}") for key, text in numbered(2)]
    )
    jobs.cancel(database, cancelled.id)
    assert removal.remove_versions(database, 0) == Removed()
    shards.commit(database, claim, done(claim), None)
    if not is_read:
        read(database, request(), numbered(4), chunk=2)
    finish(database)
    assert read_status(database, job.id).done == 4
    removed = removal.remove_versions(database, 0)
    assert removed.documents >= 2
    assert set(documents(database)) == {key for key, _ in numbered(4)}


def test_results_that_a_run_has_yet_to_write_stay(database: Database) -> None:
    job = run_job(database, request(), [("a", "old")])
    read_all(database, [("a", "new")], source="b.jsonl")
    keep_pipeline(database)
    run = update(PipelineRun).where(PipelineRun.id == fire_run(database))
    database.execute(run.values(job_id=job.id, state="running"))
    assert removal.remove_versions(database, 0) == Removed()
    database.execute(run.values(state="done", finished_at=db_now()))
    assert removal.remove_versions(database, 0).documents == 1


def test_prompts_of_superseded_versions_are_deleted(database: Database) -> None:
    prompted = Spec("generate", "writer", "sha256:4", params={"prompt": "{meta.n} {text}"})
    read_all(database, [("a", "old"), ("b", "b")], spec=prompted)
    read_all(database, [("a", "other"), ("b", "b")], spec=prompted)
    assert removal.remove_versions(database, 0) == Removed(1, 2, 1)
    assert texts(database) == {"other", "b", "5 other", "1 b"}
    assert count_rows(database, Prompt) == 2


def test_an_interrupted_removal_is_continued(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "LOOK", 4)
    monkeypatch.setattr(paging, "PAGE", 2)
    read_all(database, numbered(9))
    read_all(database, [(key, f"new {text}") for key, text in numbered(9)])
    remove_rows, left = removal.remove_rows, 2

    def cut_off(*arguments: Any) -> Removed:
        nonlocal left
        left -= 1
        removed = remove_rows(*arguments)
        if left < 0:
            raise KeyboardInterrupt
        return removed

    monkeypatch.setattr(removal, "remove_rows", cut_off)
    with pytest.raises(KeyboardInterrupt):
        removal.remove_versions(database, 0)
    assert count_rows(database, Document) == 14, "the pages of committed transactions stay deleted, and no others"
    monkeypatch.setattr(removal, "remove_rows", remove_rows)
    assert removal.remove_versions(database, 0) == Removed(5, 5, 5)
    assert texts(database) == {f"new {text}" for _, text in numbered(9)}


def test_a_source_with_a_repeated_key_is_read_as_before_after_a_removal(database: Database) -> None:
    records = [("a", "one"), ("b", "x"), ("a", "two"), ("a", "three")]
    read_all(database, records)
    # The next reading has to know which records lost, so they stay.
    assert removal.remove_versions(database, 0) == Removed()
    read_all(database, records)
    assert documents(database) == {"a": "three", "b": "x"}
    last = select(Ingest.n_new, Ingest.n_changed, Ingest.n_unchanged, Ingest.n_repeated).order_by(Ingest.id.desc())
    assert database.rows(last)[0] == (0, 0, 2, 2)


@dataclass(frozen=True)
class Night:
    """A reading of a source. It may prune, and have been interrupted before; its job may stay unfinished."""

    source: str
    texts: list[Text]
    prunes: bool
    cut_off: bool
    worked_off: bool


TEXTS = st.tuples(st.sampled_from("abcd"), st.sampled_from(["one", "two", "three", "four"]))
SOURCE_TEXTS = st.lists(TEXTS, min_size=1, max_size=7)
NIGHTS = st.lists(
    st.builds(Night, st.sampled_from(["left", "right"]), SOURCE_TEXTS, *[st.booleans()] * 3), min_size=2, max_size=8
)


@pytest.mark.long
def test_readings_of_a_corpus_give_the_same_with_and_without_its_superseded_versions(database: Database) -> None:
    @settings(max_examples=40 if database.server is None else 20)  # PostgreSQL takes twice as long
    @given(nights=NIGHTS)
    def holds(nights: list[Night]) -> None:
        whole, reduced = ([*_read_nights(database, nights, collects=collects)] for collects in (False, True))
        assert whole == reduced

    holds()


def _read_nights(database: Database, nights: list[Night], *, collects: bool) -> Any:
    """Read each night's source into a new corpus. Yield the counts of each reading, and the documents after it."""
    name = uuid.uuid4().hex
    spec = Spec("copy", name, "r1")
    computed: set[str] = set()  # texts that were computed and have been current since then
    open_jobs: set[int] = set()

    def compute(claim: Any) -> list[Outcome]:
        assert not computed & {text for _, text in claim.texts}, "no current text is computed again"
        computed.update(text for _, text in claim.texts)
        return [Outcome(content_id, Status.DONE, text="out") for content_id, _ in claim.texts]

    for night in nights:
        named_texts = [(key, f"{name} {text}") for key, text in night.texts]
        job_request = request(night.source, corpus=name, spec=spec)
        if night.cut_off:
            read(database, job_request, named_texts, chunk=2, stop_after=1)
            _ = collects and removal.remove_versions(database, 0)
        if night.prunes:
            job, vanished = read_and_prune(database, named_texts, night.source, 2, corpus=name, spec=spec)
        else:
            job, vanished = read(database, job_request, named_texts, chunk=2), 0
        _ = collects and removal.remove_versions(database, 0)

        open_jobs.add(job.id)
        waiting = {job_id: documents(database, job_id) for job_id in sorted(open_jobs)}
        if night.worked_off or night is nights[-1]:
            finish(database, compute)
            for job_id, covered in waiting.items():
                assert {line["id"] for line in results(database, job_id)} == {*covered}
            open_jobs.clear()
        if collects:
            removal.remove_versions(database, 0)
            assert gc.collect(database) == Removed()
        now = documents(database, corpus_id=job.corpus_id)
        assert documents(database, job) == now
        computed.intersection_update(now.values())
        yield (
            _counts(database, job.ingest_id),
            vanished,
            _leave_out_name(now),
            [_leave_out_name(covered) for covered in waiting.values()],
        )


def _leave_out_name(documents: dict[str, str]) -> dict[str, str]:
    return {key: text.split()[1] for key, text in documents.items()}


def _counts(database: Database, ingest_id: int) -> dict[str, int]:
    [row] = database.rows(select(Ingest).where(Ingest.id == ingest_id))
    return {name: value for name, value in row._mapping.items() if name.startswith("n_")}
