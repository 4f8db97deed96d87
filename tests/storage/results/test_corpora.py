"""A document's id leads to its source in each corpus, and to the jobs that cover it."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Document, Job
from docmill.storage.errors import NotFound
from docmill.storage.results import corpora
from docmill.storage.results.corpora import find_documents
from docmill.storage.steps.lineage import visible
from tests.storage.builders import numbered, read, request, run_job
from tests.storage.ingest.test_pruning import read_and_prune


def test_a_document_is_found_with_its_source_and_jobs_in_each_corpus(database: Database) -> None:
    first = run_job(database, request(), numbered(2))
    read(database, request("b.jsonl", corpus="films"), numbered(1))
    again = read(database, request("c.jsonl"), [*numbered(2), ("new", "another text")])
    books, films = find_documents(database, "k0")
    assert (books.corpus, books.source, books.gone) == ("books", "a.jsonl", False)
    assert [(job.id, job.state) for job in books.jobs] == [(again.id, "running"), (first.id, "done")]
    assert (films.corpus, films.source, len(films.jobs)) == ("films", "b.jsonl", 1)
    [new] = find_documents(database, "new")
    assert [job.id for job in new.jobs] == [again.id]
    assert [document.corpus for document in find_documents(database, "k0", "films")] == ["films"]
    assert find_documents(database, "k9") == []
    assert find_documents(database, "K0") == []


@pytest.mark.parametrize(("look_up", "left"), [("find_corpus", []), ("read_status", ["books"])])
def test_corpora_and_jobs_that_are_removed_during_a_listing_are_left_out(
    database: Database, monkeypatch: pytest.MonkeyPatch, look_up: str, left: list[str]
) -> None:
    def refuse(*_: object) -> None:
        raise NotFound("it was removed")

    read(database, request(corpus="books"), numbered(2))
    monkeypatch.setattr(corpora, look_up, refuse)
    assert [corpus.name for corpus in corpora.list_corpora(database)] == left


def test_only_the_latest_jobs_of_a_corpus_are_searched(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "JOBS", 2)
    job_ids = [read(database, request(f"{name}.jsonl"), numbered(1)).id for name in "abc"]
    [appearance] = find_documents(database, "k0")
    assert [job.id for job in appearance.jobs] == [job_ids[2], job_ids[1]]
    assert (appearance.looked_at, appearance.has_older_jobs) == (2, True)


def test_a_job_is_named_if_its_results_show_a_version(database: Database) -> None:
    read(database, request(), [("k", "one"), ("stays", "x")])
    read(database, request("b.jsonl"), [("k", "two"), ("stays", "x")])
    read_and_prune(database, [("stays", "x")], "c.jsonl")
    with database.read() as transaction:
        jobs = [Job.of(row) for row in transaction.execute(select(Job)).all()]
        for key in ("k", "stays"):
            versions = {job.id: select(Document.id).where(visible(job), Document.key == key) for job in jobs}
            expected = {job_id for job_id, query in versions.items() if transaction.scalar(query) is not None}
            [appearance] = find_documents(database, key)
            assert {job.id for job in appearance.jobs} == expected
