"""Garbage collection deletes contents and results that nothing needs, and no others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import delete_page
from docmill.storage.core.schema import (
    Content,
    Corpus,
    Document,
    Ingest,
    Job,
    OutcomeRow,
    RejectionRow,
    Shard,
    ShardCount,
    db_now,
)
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion import gc, paging, removal
from docmill.storage.deletion.paging import Removed
from docmill.storage.errors import JobStopped, LeaseLost, NotFound, StorageError
from docmill.storage.ingest import ingest
from docmill.storage.leases import maintenance, shards
from docmill.storage.results.results import failures, inputs, results
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs
from docmill.storage.steps.steps import StepRequest
from tests.storage.builders import (
    EMBED,
    TRANSLATE,
    assert_status,
    by_text,
    chunks,
    claim_next,
    commit_next,
    count_rows,
    done,
    failed,
    finish,
    numbered,
    outcomes,
    read,
    records,
    request,
    run_job,
    shard,
)
from tests.storage.fleet import STEPS, SUMMARIZE, Fleet, pipeline
from tests.storage.invariants import assert_invariants


def texts(database: Database) -> set[str]:
    """Return the texts of all contents."""
    return set(database.values(select(Content.text)))


def test_a_corpus_is_removed_with_everything_that_belongs_to_it(database: Database, fleet: Fleet) -> None:
    job = fleet.run_job(pipeline(), numbered(30))
    poems = run_job(database, request("b.jsonl", corpus="poems"), numbered(2, first=29))
    removed = removal.remove_corpus(database, "books")
    assert (removed.documents, removed.jobs, removed.ingests) == (30, 1, 1)
    shared = {"text 29", "translate(text 29)", "summarize(translate(text 29))"}
    assert texts(database) == {"text 30", *shared}
    assert [row["id"] for row in results(database, poems.id)] == ["k29", "k30"]
    assert count_rows(database, OutcomeRow) == 6
    assert set(database.values(select(Shard.job_id))) == {poems.id}
    with pytest.raises(NotFound):
        read_status(database, job.id)
    with pytest.raises(NotFound):
        removal.remove_corpus(database, "books")


def test_the_invariants_hold_after_each_page_of_a_removal(
    database: Database, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove_and_look(
        database: Database, remove: Callable[[int, Transaction], Removed | None], size: int
    ) -> Removed:
        total = Removed()
        while (page := database.write(partial(remove, 1))) is not None:
            total += page
            if (n := count_rows(database, Ingest)) < readings[-1]:
                readings.append(n)
            assert_invariants(database)
        return total

    readings = [2]
    monkeypatch.setattr(removal, "remove_all", remove_and_look)
    monkeypatch.setattr(removal, "delete_page", lambda *of, size=1: delete_page(of[0], of[1], of[2], size))
    fleet.fails = lambda kind, text: kind == "summarize"
    job = fleet.run_job(pipeline(), numbered(4))
    assert jobs.retry(database, job.id) == 4
    jobs.cancel(database, job.id)
    read(database, request("b.jsonl"), numbered(9, first=2))
    jobs.cancel(database, job.id + 1)
    assert removal.remove_corpus(database, "books").documents == 11
    assert readings == [2, 1, 0], "the ingests are deleted one by one: each makes the database scan the documents"
    for table in (Shard, ShardCount, Content, OutcomeRow, Corpus):
        assert count_rows(database, table) == 0, table


def test_a_page_of_rows_with_a_key_of_two_columns_is_deleted_and_no_more(database: Database) -> None:
    job = read(database, request(), numbered(3))
    rejected = [{"ingest_id": job.ingest_id, "place": place, "reason": "no"} for place in "abc"]
    database.write(lambda transaction: transaction.execute(insert(RejectionRow), rejected))
    page = partial(delete_page, table=RejectionRow, condition=RejectionRow.ingest_id == job.ingest_id, size=2)
    assert [database.write(page) for _ in range(3)] == [2, 1, 0]


def test_a_document_is_removed_in_every_version_with_its_outputs(database: Database, fleet: Fleet) -> None:
    first = read(database, pipeline(), [("a", "old"), ("b", "kept")])
    fleet.work()
    fleet.run_job(pipeline("b.jsonl"), [("a", "new")])
    removed = removal.remove_documents(database, "books", ["a", "nobody"])
    assert (removed.documents, removed.contents) == (1, 6)
    assert texts(database) == {"kept", "translate(kept)", "summarize(translate(kept))"}
    assert database.value(select(Corpus.n_documents)) == 1
    assert removal.remove_documents(database, "books", ["a"]) == Removed()
    assert removal.find_unknown_keys(database, "books", ["a", "b"]) == ["a"]
    # Earlier jobs whose shards have the document still show their other results.
    assert [row["id"] for row in results(database, first.id)] == ["b"]
    assert list(failures(database, first.id)) == []
    assert read_status(database, first.id).state == "done"
    assert jobs.retry(database, first.id) == 0


def test_a_corpus_that_a_job_works_on_is_not_touched(database: Database) -> None:
    job = read(database, request(), numbered(3))
    for act in (removal.remove_corpus, lambda db, name: removal.remove_documents(db, name, ["k1"])):
        with pytest.raises(StorageError, match=f"job {job.id} works on the corpus books; `docmill cancel {job.id}`"):
            act(database, "books")
    assert count_rows(database, Document) == 3


def test_texts_that_are_outputs_of_each_other_do_not_keep_each_other(database: Database) -> None:
    there_and_back = (StepRequest("there", TRANSLATE), StepRequest("back", STEPS[1].spec, "there"))
    run_job(
        database,
        request(steps=there_and_back),
        [("a", "abc"), ("b", "level")],
        by_text(lambda text: {"text": text[::-1]}),
    )
    assert texts(database) == {"abc", "cba", "level"}
    assert gc.collect(database) == Removed()
    removal.remove_documents(database, "books", ["a"])
    assert texts(database) == {"level"}
    removal.remove_documents(database, "books", ["b"])
    assert texts(database) == set()


def test_the_output_of_a_remaining_text_stays(database: Database) -> None:
    run_job(database, request(steps=STEPS[:2]), numbered(3), lambda claim: done(claim, "the same"))
    removal.remove_documents(database, "books", ["k0", "k1"])
    assert texts(database) == {"text 2", "the same"}
    removal.remove_documents(database, "books", ["k2"])
    assert texts(database) == set()


def test_a_collection_counts_and_deletes_unreferenced_contents_and_their_outputs(
    database: Database, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "LOOK", 4)
    monkeypatch.setattr(paging, "PAGE", 2)
    fleet.run_job(pipeline(), numbered(9))
    assert gc.count_unneeded(database) == gc.collect(database) == Removed()
    database.execute(delete(Document).where(Document.key.in_(["k0", "k5", "k8"])))
    assert gc.count_unneeded(database) == gc.collect(database) == Removed(contents=9, outcomes=12)
    assert gc.collect(database) == Removed()


def count_old(database: Database, **which: Any) -> list[tuple[str, int]]:
    """Return the number of results of each spec that a drop would delete."""
    return [(of_spec.spec, of_spec.outcomes) for of_spec in gc.count_old(database, **which)]


def test_results_are_counted_and_dropped_by_age_and_by_spec(database: Database, fleet: Fleet) -> None:
    job = fleet.run_job(pipeline(), numbered(4))
    assert count_old(database, older_than_s=3_600) == []
    assert gc.drop(database, older_than_s=3_600) == Removed()
    of_vectors = gc.specs(database, "embed/minilm")
    assert count_old(database, spec_ids=of_vectors) == [(str(EMBED), 8)]
    assert gc.drop(database, spec_ids=of_vectors) == Removed(outcomes=8)
    assert [[*row["steps"]] for row in results(database, job.id)] == [["english", "line"]] * 4
    database.execute(update(OutcomeRow).values(created_at=db_now() - 7_200))
    assert count_old(database, older_than_s=3_600) == [(str(TRANSLATE), 4), (str(SUMMARIZE), 4)]
    dropped = gc.drop(database, older_than_s=3_600)
    assert (dropped.outcomes, dropped.contents) == (8, 8)
    assert texts(database) == {text for _, text in numbered(4)}
    assert gc.specs(database, str(of_vectors[0])) == of_vectors
    assert gc.specs(database, "embed/other") == []


def test_a_result_that_was_recomputed_after_it_was_found_old_stays(
    database: Database, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.run_job(pipeline(), numbered(1))
    monkeypatch.setattr(gc, "_find_old", lambda *_: iter([[*database.values(select(Content.id))]]))
    assert gc.drop(database, older_than_s=3_600) == Removed()


def test_an_unfinished_jobs_results_are_not_dropped(database: Database, fleet: Fleet) -> None:
    read(database, pipeline(), numbered(4))
    fleet.work()
    kept = outcomes(database)
    read(database, request("b.jsonl", corpus="poems", spec=TRANSLATE), [("z", "alone")])
    jobs.cancel(database, 2)
    assert gc.drop(database) == Removed()
    assert outcomes(database) == kept
    jobs.finish(database)
    assert gc.drop(database).outcomes == len(kept)


def test_a_commit_leaves_out_texts_that_were_removed_meanwhile(database: Database, fleet: Fleet) -> None:
    job = read(database, request(steps=STEPS[:2]), numbered(3))
    claim = claim_next(database)
    delete_documents(database, "k1")
    shards.commit(database, claim, fleet.outcomes(claim), None)
    row = shard(database, claim.shard_id)
    assert (row.state, row.n_contents, row.n_done) == ("done", 2, 2)
    fleet.work()
    assert jobs.finish(database) == [job.id]
    assert [row["id"] for row in results(database, job.id)] == ["k0", "k2"]


def delete_documents(database: Database, *keys: str) -> None:
    """Delete documents although a job works on them, as if the job were retried at the same moment."""
    content_ids = list(database.values(select(Document.content_id).where(Document.key.in_(keys))))
    database.execute(delete(Document).where(Document.key.in_(keys)))
    assert gc.collect(database).contents == len(content_ids)


@pytest.mark.parametrize("keys", [["k1"], ["k0", "k1", "k2"]])
def test_a_shard_ends_however_much_of_it_was_removed(database: Database, keys: list[str]) -> None:
    job = read(database, request(), numbered(3))
    late = claim_next(database)
    delete_documents(database, *keys)
    shards.release(database, late, done(late)[:2])
    finish(database)
    assert_status(database, job.id, state="done", done=3 - len(keys), pending=0)


def test_workers_and_readers_of_a_removed_corpus_are_told(database: Database) -> None:
    job = read(database, request(), numbered(3))
    claim = claim_next(database)
    jobs.cancel(database, job.id)
    removal.remove_corpus(database, "books")
    with pytest.raises(LeaseLost, match="removed"):
        shards.commit(database, claim, done(claim), None)
    shards.release(database, claim, done(claim))
    maintenance.failed_attempt(database, claim, "it fell over")
    with pytest.raises(JobStopped, match="removed"):
        ingest.add(database, job, records([("a", "b")]))


def test_no_id_is_used_twice(database: Database) -> None:
    # A late worker would take another shard for its own, or another text for that of its shard.
    def list_last_ids() -> list[int]:
        return [max(database.values(select(table.id))) for table in (Content, Document, Corpus, Shard, Job, Ingest)]

    run_job(database, request(), numbered(3))
    before = list_last_ids()
    removal.remove_corpus(database, "books")
    read(database, request(), numbered(1, first=50))
    assert all(new > old for new, old in zip(list_last_ids(), before, strict=True))


def test_the_status_of_a_done_job_counts_dropped_results_as_lost(database: Database, fleet: Fleet) -> None:
    first = fleet.run_job(pipeline(), numbered(5))
    untouched = run_job(database, request("b.jsonl", corpus="poems"), numbered(2, first=50))
    assert read_status(database, first.id).lost == 0
    [spec_id] = gc.specs(database, "translate/marian")
    gc.drop(database, spec_ids=[spec_id])
    assert (read_status(database, first.id).lost, read_status(database, untouched.id).lost) == (5, 0)
    again = fleet.run_job(pipeline("c.jsonl"), numbered(2, first=60))
    # Its job covers all of the corpus, so everything is there again.
    assert (read_status(database, first.id).lost, read_status(database, again.id).lost) == (0, 0)


def test_failed_and_removed_documents_and_those_of_an_unfinished_job_are_not_lost(database: Database) -> None:
    job = read(database, request(), numbered(6))
    commit_next(database, lambda claim: [*done(claim)[:3], *failed(claim)[3:]])
    jobs.finish(database)
    removal.remove_documents(database, "books", ["k0", "k5"])
    assert read_status(database, job.id).lost == 0
    gc.drop(database)
    assert read_status(database, job.id).lost == 4
    unfinished = jobs.open_job(database, request("b.jsonl"))
    ingest.add(database, unfinished, chunks(numbered(1), 1)[0])
    assert read_status(database, unfinished.id).lost == 0


def test_a_removed_document_is_counted_even_if_another_corpus_keeps_its_text(database: Database) -> None:
    job = run_job(database, request(), [("a", "one"), ("b", "two")])
    other = run_job(database, request("b.jsonl", corpus="poems"), [("c", "one")])
    assert removal.remove_documents(database, "books", ["a"]) == Removed(documents=1)
    statuses = [read_status(database, job_id) for job_id in (job.id, other.id)]
    assert [(status.removed, status.lost) for status in statuses] == [(1, 0), (0, 0)]


def test_a_removed_document_of_a_cancelled_job_is_counted_as_removed(database: Database) -> None:
    job = read(database, request(), numbered(3))
    jobs.cancel(database, job.id)
    removal.remove_documents(database, "books", ["k0"])
    status = read_status(database, job.id)
    assert (status.documents, status.removed, status.lost) == (3, 1, 0)
    assert len(list(inputs(database, job.id))) == 2
