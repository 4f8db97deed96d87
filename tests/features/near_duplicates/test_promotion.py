"""The first of a cluster is removed: the next document becomes the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from sqlalchemy import func, select

from docmill.features.near_duplicates import clusters, report
from docmill.features.near_duplicates.tables import Deduplication, Duplicate
from docmill.storage.core.database import Database
from docmill.storage.core.schema import Document
from docmill.storage.deletion import removal
from docmill.storage.results.results import results
from docmill.storage.steps.conditions import find_filter
from docmill.storage.steps.steps import StepRequest
from tests.features.near_duplicates.test_clusters import WORDS, find, read_firsts, run_of
from tests.storage.builders import COPY, Text, count_rows, finish, read, request

TEXTS = [("a", run_of(0, 16)), ("x", "quite another text"), ("b", run_of(1, 17)), ("c", run_of(2, 18))]


def find_and_finish(database: Database, texts: Sequence[Text] = TEXTS) -> None:
    find(database, texts)
    finish(database)


def explain_left_out(database: Database, key: str) -> str | None:
    """Return the reason for which the document is left out, in words."""
    with database.read() as transaction:
        document_id = transaction.scalar(select(Document.id).where(Document.key == key))
        assert document_id is not None
        return find_filter("near-duplicates").explain(transaction, document_id)


def test_the_next_document_is_first_when_the_first_is_removed(database: Database) -> None:
    find_and_finish(database)
    removal.remove_documents(database, "books", ["a"])
    assert read_firsts(database, after_removal=True) == {"b": "b", "c": "b"}
    summary = report.summarize(database, 1, "books")
    assert (summary.documents, summary.clusters, summary.in_clusters, summary.repeats) == (3, 1, 2, 1)
    assert (summary.texts, summary.repeated_texts) == (3, 1)
    [(n_documents, members)] = report.read_samples(database, 1, 5, 5)
    assert (n_documents, [key for key, _ in members]) == (2, ["b", "c"])
    assert [(row["id"], row["first"]) for row in report.read_members(database, 1)] == [("b", "b"), ("c", "b")]


def test_a_cluster_that_is_left_with_one_document_is_none(database: Database) -> None:
    find_and_finish(database)
    removal.remove_documents(database, "books", ["a", "c"])
    assert count_rows(database, Duplicate) == 0
    assert report.summarize(database, 1, "books").clusters == 0
    find(database, [*TEXTS[1:3], ("d", run_of(2, 18))])
    assert read_firsts(database) == {"b": "b", "d": "b"}


def test_many_clusters_in_several_corpora_get_their_next_documents(database: Database) -> None:
    texts = [(f"{n}{key}", f"{run_of(100 * n, 100 * n + 16)} {key}") for key in "abc" for n in range(7)]
    for corpus in ("books", "films"):
        job = read(database, request("a", corpus=corpus), texts)
        assert clusters.find(database, job.corpus_id, WORDS).repeats == 14
    finish(database)
    removal.remove_documents(database, "books", [f"{n}a" for n in range(7)])
    with database.read() as transaction:
        in_place = transaction.scalar(
            select(func.count()).select_from(Duplicate).where(Duplicate.first_id == Duplicate.document_id)
        )
    assert in_place == 14
    assert {row["id"]: row["first"] for row in report.read_members(database, 1)} == {
        f"{n}{key}": f"{n}b" for n in range(7) for key in "bc"
    }
    assert {row["first"] for row in report.read_members(database, 2)} == {f"{n}a" for n in range(7)}


def test_a_result_says_which_document_is_first_in_place_of_a_removed_one(database: Database) -> None:
    job_request = replace(request("a"), steps=(StepRequest("copy", COPY, leaves_out="near-duplicates"),))
    job = read(database, job_request, TEXTS)
    clusters.find(database, job.corpus_id, WORDS)
    finish(database)
    removal.remove_documents(database, "books", ["a"])
    assert explain_left_out(database, "c") == "a near duplicate of the earlier document b"
    assert explain_left_out(database, "b") is None
    assert [row["id"] for row in results(database, job.id)] == ["x", "b"]


def test_a_removed_corpus_takes_its_clusters_with_it(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "PAGE", 1)
    find_and_finish(database)
    removal.remove_corpus(database, "books")
    assert count_rows(database, Duplicate) == 0
    with database.read() as transaction:
        assert transaction.execute(select(Deduplication)).all() == []
