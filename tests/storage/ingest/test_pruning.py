"""Pruning marks documents as gone that their source no longer has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.storage.core.database import Database
from docmill.storage.errors import JobStopped, StorageError
from docmill.storage.ingest import ingest, pruning
from docmill.storage.ingest.changes import SeenDocuments
from docmill.storage.ingest.ingest import Counts
from docmill.storage.ingest.pruning import Unread, prune
from docmill.storage.results.results import results
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs
from docmill.storage.steps.jobs import OpenJob
from tests.storage.builders import (
    TRANSLATE,
    Text,
    assert_status,
    chunks,
    documents,
    make_chunk,
    numbered,
    planned,
    read,
    read_chunk,
    request,
    run_job,
)


def read_and_prune(
    database: Database, texts: Sequence[Text], source: str = "a.jsonl", chunk: int = 4, **more: object
) -> tuple[OpenJob, int]:
    """Read a source and mark documents that vanished from it. Return the job and the number of these documents."""
    job = jobs.open_job(database, request(source, **more))  # type: ignore[arg-type]
    seen = SeenDocuments()
    for part in chunks(texts, chunk):
        ingest.add(database, job, part, seen=seen)
    n = prune(database, job, seen, most_percent=100)[0]
    ingest.end(database, job)
    return job, n


def test_documents_that_are_missing_from_the_source_are_marked_as_gone_and_not_planned(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "PAGE", 2)
    before = run_job(database, request(), numbered(10))
    job, n = read_and_prune(database, numbered(7), spec=TRANSLATE)
    assert n == 3
    assert documents(database, job) == documents(database) == dict(numbered(7))
    assert set(planned(database, job)) == {f"text {i}" for i in range(7)}
    assert read_status(database, job.id).documents == 7
    assert len(documents(database, before)) == 10, "an earlier job sees the corpus as it was"
    assert len(list(results(database, before.id))) == 10


def test_documents_that_come_back_are_there_again_with_their_results(database: Database) -> None:
    run_job(database, request(), numbered(5))
    read_and_prune(database, numbered(3))
    jobs.finish(database)
    job, n = read_and_prune(database, numbered(5))
    assert n == 0
    assert documents(database, job) == dict(numbered(5))
    assert not planned(database, job)
    assert_status(database, job.id, documents=5, done=5)


def test_a_document_without_metadata_that_comes_back_is_there_again(database: Database) -> None:
    plain = make_chunk(("a", "one", {}, (), 0))
    ingest.add(database, jobs.open_job(database, request()), plain)
    assert read_and_prune(database, numbered(1))[1] == 1
    read_chunk(database, request(spec=TRANSLATE), plain)
    assert documents(database) == {"a": "one", "k0": "text 0"}


def test_documents_that_another_reading_of_the_source_brings_meanwhile_stay(database: Database) -> None:
    mine = jobs.open_job(database, request(spec=TRANSLATE))
    seen = SeenDocuments()
    read(database, request(), numbered(3))
    assert prune(database, mine, seen, most_percent=100) == (0, None)
    assert len(documents(database)) == 3


def test_a_document_that_another_reading_changes_before_it_is_marked_stays(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(database, request(), numbered(3))
    mine, note = jobs.open_job(database, request(spec=TRANSLATE)), pruning._note

    def change_before(*arguments: Any) -> None:
        read(database, request("b.jsonl"), [("k1", "changed")])
        note(*arguments)

    monkeypatch.setattr(pruning, "_note", change_before)
    assert prune(database, mine, SeenDocuments(), most_percent=100) == (2, None)
    assert documents(database) == {"k1": "changed"}


def test_pruning_twice_changes_nothing(database: Database) -> None:
    read(database, request(), numbered(10))
    job = jobs.open_job(database, request(spec=TRANSLATE))
    assert [prune(database, job, SeenDocuments(), most_percent=100)[0] for _ in range(2)] == [10, 0]
    assert documents(database) == {}
    assert ingest.end(database, job) == (0, Counts())


def test_a_cancelled_job_prunes_nothing(database: Database) -> None:
    read(database, request(), numbered(2))
    job = jobs.open_job(database, request(spec=TRANSLATE))
    jobs.cancel(database, job.id)
    with pytest.raises(JobStopped):
        prune(database, job, SeenDocuments(), most_percent=100)
    assert len(documents(database)) == 2


@given(st.lists(st.lists(st.integers(0, 200_000), max_size=30), max_size=5), st.integers(0, 250_000))
def test_seen_is_a_set(groups: list[list[int]], candidate: int) -> None:
    seen = SeenDocuments()
    for group in groups:
        seen.add(group)
    everything = {number for group in groups for number in group}
    assert all(number in seen for number in everything)
    assert (candidate in seen) == (candidate in everything)


def test_the_share_of_missing_documents_counts_those_that_the_source_had_before(database: Database) -> None:
    read(database, request(corpus="poems"), numbered(4))
    read(database, request("b.jsonl"), numbered(50, first=100))
    run_job(database, request(), numbered(4))
    job = jobs.open_job(database, request(spec=TRANSLATE))
    seen = SeenDocuments()
    changed = [("k0", "news"), ("k1", "more news"), *numbered(20, first=1_000)]
    ingest.add(database, job, chunks(changed, 100)[0], seen=seen)
    with pytest.raises(StorageError, match="2 of the 4 documents of this source are missing, 50 %"):
        prune(database, job, seen, most_percent=49)
    assert len(documents(database)) == 74
    assert_status(database, job.id, state="stopped")
    assert pruning.why_too_many(pruning.Missing(4, [1, 2], 0, {}), 50) is None
    assert read_and_prune(database, changed, spec=TRANSLATE)[1] == 2


@given(st.lists(st.sampled_from("ab#:/."), max_size=8).map("".join), st.sampled_from(["a", "a/b", "a.b", "b"]))
def test_a_rejected_file_keeps_the_documents_named_for_it(key: str, below: str) -> None:
    unread = Unread()
    unread.reject(below, below=below)
    held = key == below or any(key.startswith(below + mark) for mark in "#:/")
    assert unread.may_be_rejected(key) == held
    assert unread.unknown is None


def test_a_kind_of_file_that_was_left_out_keeps_its_files_records_and_members() -> None:
    unread = Unread()
    unread.left_out = {".pdf": 1, ".mbox.gz": 1, "without a suffix": 3}
    for key in ("a.pdf", "b/a.pdf#17", "a.pdf:3", "x.zip/a.pdf", "in.mbox.gz/1.eml"):
        assert unread.kind_left_out(key) is not None
    for key in ("a.pdfx", "pdf", "a.pdf.txt", "README", "without a suffix"):
        assert unread.kind_left_out(key) is None
