"""Superseded versions of documents go with what only they led to, and no later reading is told anything else."""

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
from docmill.storage.pipelines import pipelines
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
    numbered,
    read,
    request,
)
from tests.storage.deletion.test_gc import texts
from tests.storage.ingest.test_pruning import read_and_prune
from tests.storage.steps.test_steps import Fleet, pipeline


def read_all(database: Database, found: list[Text], **more: Any) -> None:
    """Read a source to its end, and work its job off."""
    read(database, request(**more), found, chunk=2)
    finish(database)


def counted(database: Database, older_than_s: float) -> Removed:
    with database.read() as transaction:
        return removal.count_versions(transaction, older_than_s)


def test_what_was_superseded_goes_with_what_only_it_led_to(database: Database, fleet: Fleet) -> None:
    first = fleet.done(pipeline(), [("a", "old"), ("b", "kept")])
    second = fleet.done(pipeline(), [("a", "new"), ("b", "kept")])
    assert counted(database, 0) == Removed(documents=1)
    # Of what was made of "old" the translation, its summary, and two vectors.
    assert removal.remove_versions(database, 0) == Removed(documents=1, contents=3, outcomes=4)
    made = {"translate({})", "summarize(translate({}))"}
    assert texts(database) == {"new", "kept"} | {form.format(t) for form in made for t in ("new", "kept")}
    assert [one["id"] for one in results(database, second.id)] == ["a", "b"]
    # The job of before lacks the document, and says no wrong word about the other.
    assert [one["id"] for one in results(database, first.id)] == ["b"]
    assert list(failures(database, first.id)) == []
    assert_status(database, first.id, state="done", lost=0, removed=1)
    assert read_status(database, second.id).removed == 0
    assert documents(database) == {"a": "new", "b": "kept"}
    assert removal.remove_versions(database, 0) == Removed()
    assert gc.collect(database) == Removed()


def test_a_version_goes_when_it_was_superseded_for_long_and_not_when_it_is_old(database: Database) -> None:
    read_all(database, [("a", "one"), ("b", "one b")])
    days_pass(database, 100)
    read_all(database, [("a", "two"), ("b", "one b")])
    assert counted(database, 90 * 86_400) == Removed()
    days_pass(database, 89)
    assert removal.remove_versions(database, 90 * 86_400) == Removed()
    days_pass(database, 2)
    read_all(database, [("a", "three"), ("b", "one b")])
    removed = removal.remove_versions(database, 90 * 86_400)
    assert (removed.documents, removed.contents) == (1, 1)
    assert texts(database) == {"one b", "two", "three"}


def test_a_reading_goes_when_no_document_job_or_record_needs_it(database: Database) -> None:
    for text in ("one", "two", "three"):
        read_all(database, [("a", text)])
    assert removal.remove_versions(database, 0).ingests == 0
    assert count_rows(database, Ingest) == 3, "their jobs are there"

    def forget_jobs(transaction: Transaction) -> None:
        for table in ("shard", "step_text", "step", "job"):
            transaction.exec_driver_sql(f"DELETE FROM {table}")

    database.write(forget_jobs)
    assert counted(database, 3_600) == Removed()
    assert counted(database, 0) == Removed(ingests=2)
    assert removal.remove_versions(database, 0) == Removed(ingests=2)
    assert count_rows(database, Ingest) == 1, "the current version came with it"
    read_all(database, [("a", "four")])
    assert counted(database, 0) == Removed(documents=1, ingests=1), "the reading goes with its last document"
    assert removal.remove_versions(database, 0) == Removed(1, 1, 1, 0, 1)


@pytest.mark.parametrize("is_read", [True, False], ids=["read", "half read"])
def test_what_an_unfinished_job_has_to_do_stays_until_it_is_done(database: Database, is_read: bool) -> None:
    job = read(database, request(), numbered(4), chunk=2, stop_after=None if is_read else 1)
    claim = claim_next(database)
    other = read(database, request("b.jsonl", spec=TRANSLATE), [(key, f"new {text}") for key, text in numbered(2)])
    jobs.cancel(database, other.id)
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
    job = read(database, request(), [("a", "old")])
    finish(database)
    read_all(database, [("a", "new")], source="b.jsonl")
    text = 'name = "n"\n[corpus]\nsource = "a.jsonl"\n[[step]]\nname = "s"\ntask = "embed"\nmodel = "null"\n'
    pipelines.put(database, "n", "n.toml", text, {"cron": "0 * * * *", "timezone": "UTC", "overlap": "queue"})
    run_id = pipelines.fire(database, pipelines.scheduled(database)[0], 1.0)
    this = update(PipelineRun).where(PipelineRun.id == run_id)
    database.execute(this.values(job_id=job.id, state="running"))
    assert removal.remove_versions(database, 0) == Removed()
    database.execute(this.values(state="done", finished_at=db_now()))
    assert removal.remove_versions(database, 0).documents == 1


def test_prompts_of_superseded_versions_go(database: Database) -> None:
    told = Spec("generate", "writer", "sha256:4", params={"prompt": "{meta.n} {text}"})
    read_all(database, [("a", "old"), ("b", "b")], spec=told)
    read_all(database, [("a", "other"), ("b", "b")], spec=told)
    assert removal.remove_versions(database, 0) == Removed(1, 2, 1)
    assert texts(database) == {"other", "b", "5 other", "1 b"}
    assert count_rows(database, Prompt) == 2


def test_a_removal_that_was_cut_off_is_carried_on(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "LOOK", 4)
    monkeypatch.setattr(paging, "PAGE", 2)
    read_all(database, numbered(9))
    read_all(database, [(key, f"new {text}") for key, text in numbered(9)])
    remove_rows, left = removal.remove_rows, 2

    def cut_off(*given: Any) -> Removed:
        nonlocal left
        left -= 1
        found = remove_rows(*given)
        if left < 0:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(removal, "remove_rows", cut_off)
    with pytest.raises(KeyboardInterrupt):
        removal.remove_versions(database, 0)
    assert count_rows(database, Document) == 14, "what one transaction removed stays removed, and no more"
    monkeypatch.setattr(removal, "remove_rows", remove_rows)
    assert removal.remove_versions(database, 0) == Removed(5, 5, 5)
    assert texts(database) == {f"new {text}" for _, text in numbered(9)}


@dataclass(frozen=True)
class Night:
    """A reading of a source, perhaps cut off once before, perhaps with pruning; its job may wait for the next one."""

    source: str
    found: list[Text]
    prunes: bool
    cut_off: bool
    worked_off: bool


TEXTS = st.tuples(st.sampled_from("abcd"), st.sampled_from(["one", "two", "three", "four"]))
FOUND = st.lists(TEXTS, min_size=1, max_size=7)
NIGHTS = st.lists(
    st.builds(Night, st.sampled_from(["left", "right"]), FOUND, *[st.booleans()] * 3), min_size=2, max_size=8
)


@pytest.mark.slow
def test_a_corpus_without_its_superseded_versions_reads_on_as_one_with_them(database: Database) -> None:
    @settings(max_examples=6 if database.server is None else 4)  # PostgreSQL takes twice as long
    @given(nights=NIGHTS)
    def holds(nights: list[Night]) -> None:
        whole, reduced = ([*_live(database, nights, collects=collects)] for collects in (False, True))
        assert whole == reduced

    holds()


def _live(database: Database, nights: list[Night], *, collects: bool) -> Any:
    """Read each night's source into a corpus of its own and yield what was found, and what the corpus then is."""
    name = uuid.uuid4().hex
    spec = Spec("copy", name, "r1")
    computed: set[str] = set()  # and current ever since
    open_jobs: set[int] = set()

    def compute(claim: Any) -> list[Outcome]:
        assert not computed & {text for _, text in claim.texts}, "nothing is computed again that is current"
        computed.update(text for _, text in claim.texts)
        return [Outcome(one, Status.DONE, text="out") for one, _ in claim.texts]

    for night in nights:
        found = [(key, f"{name} {text}") for key, text in night.found]
        asked = request(night.source, corpus=name, spec=spec)
        if night.cut_off:
            read(database, asked, found, chunk=2, stop_after=1)
            _ = collects and removal.remove_versions(database, 0)
        if night.prunes:
            job, vanished = read_and_prune(database, found, night.source, 2, corpus=name, spec=spec)
        else:
            job, vanished = read(database, asked, found, chunk=2), 0
        _ = collects and removal.remove_versions(database, 0)

        open_jobs |= {job.id}
        waiting = {one: documents(database, one) for one in sorted(open_jobs)}
        if night.worked_off or night is nights[-1]:
            finish(database, compute)
            for one, seen in waiting.items():
                assert {line["id"] for line in results(database, one)} == {*seen}
            open_jobs.clear()
        if collects:
            removal.remove_versions(database, 0)
            assert gc.collect(database) == Removed()
        now = documents(database, corpus_id=job.corpus_id)
        assert documents(database, job) == now
        computed.intersection_update(now.values())
        yield _counts(database, job.ingest_id), vanished, _told(now), [_told(seen) for seen in waiting.values()]


def _told(found: dict[str, str]) -> dict[str, str]:
    return {key: text.split()[1] for key, text in found.items()}


def _counts(database: Database, ingest_id: int) -> dict[str, int]:
    [row] = database.rows(select(Ingest).where(Ingest.id == ingest_id))
    return {name: value for name, value in row._mapping.items() if name.startswith("n_")}
