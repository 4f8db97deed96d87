"""A document's id leads to its source in each corpus, and to the jobs that see it."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Document, Job
from docmill.storage.errors import NotFound
from docmill.storage.results import corpora
from docmill.storage.results.corpora import find_documents
from docmill.storage.steps.lineage import visible
from tests.storage.builders import finish, numbered, read, request
from tests.storage.ingest.test_pruning import read_and_prune


def test_a_document_stands_with_its_source_and_jobs_in_each_corpus(database: Database) -> None:
    first = read(database, request("a.jsonl", corpus="books"), numbered(2))
    finish(database)
    read(database, request("b.jsonl", corpus="films"), numbered(1))
    again = read(database, request("c.jsonl", corpus="books"), [*numbered(2), ("new", "another text")])
    books, films = find_documents(database, "k0")
    assert (books.corpus, books.source, books.gone) == ("books", "a.jsonl", False)
    assert [(job.id, job.state) for job in books.jobs] == [(again.id, "running"), (first.id, "done")]
    assert (films.corpus, films.source, len(films.jobs)) == ("films", "b.jsonl", 1)
    [new] = find_documents(database, "new")
    assert [job.id for job in new.jobs] == [again.id]
    assert [one.corpus for one in find_documents(database, "k0", "films")] == ["films"]
    assert find_documents(database, "k9") == []
    assert find_documents(database, "K0") == []


@pytest.mark.parametrize(("look_up", "left"), [("find_corpus", []), ("read_status", ["books"])])
def test_what_is_removed_while_all_corpora_are_listed_is_left_out(
    database: Database, monkeypatch: pytest.MonkeyPatch, look_up: str, left: list[str]
) -> None:
    def refuse(*_: object) -> None:
        raise NotFound("it was removed")

    read(database, request(corpus="books"), numbered(2))
    monkeypatch.setattr(corpora, look_up, refuse)
    assert [corpus.name for corpus in corpora.list_corpora(database)] == left


def test_only_the_latest_jobs_of_a_corpus_are_looked_through(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "JOBS", 2)
    made = [read(database, request(f"{name}.jsonl"), numbered(1)).id for name in "abc"]
    [found] = find_documents(database, "k0")
    assert [job.id for job in found.jobs] == [made[2], made[1]]
    assert (found.looked_at, found.has_older_jobs) == (2, True)


def test_a_job_is_named_however_often_the_document_changed_since(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "JOBS", 60)
    made = [read(database, request(f"{n}.jsonl"), [("k", f"text {n}")]).id for n in range(53)]
    [appearance] = find_documents(database, "k")
    assert appearance.source == "52.jsonl"
    assert [job.id for job in appearance.jobs] == made[::-1]


def test_a_job_is_named_if_its_results_show_a_version(database: Database) -> None:
    read(database, request(), [("k", "one"), ("stays", "x")])
    read(database, request("b.jsonl"), [("k", "two"), ("stays", "x")])
    read_and_prune(database, [("stays", "x")], "c.jsonl")
    with database.read() as transaction:
        jobs = [Job.of(row) for row in transaction.execute(select(Job)).all()]
        for key in ("k", "stays"):
            shown = {job.id: select(Document.id).where(visible(job), Document.key == key) for job in jobs}
            expected = {job_id for job_id, query in shown.items() if transaction.scalar(query) is not None}
            [appearance] = find_documents(database, key)
            assert {job.id for job in appearance.jobs} == expected
