"""A reading stores its documents once and plans each text once, even if it is interrupted."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import pytest
from sqlalchemy import select, update

from docmill.storage import fault_points
from docmill.storage.core.database import Database
from docmill.storage.core.schema import Content, Document, Ingest, Job
from docmill.storage.core.specs import Outcome, Status
from docmill.storage.errors import JobStopped, StorageError
from docmill.storage.ingest import chunks as columns
from docmill.storage.ingest import ingest, planning
from docmill.storage.ingest.ingest import Counts
from docmill.storage.leases.shards import Claim
from docmill.storage.readers import Rejection, SourceOptions
from docmill.storage.readers.memory import MemorySource
from docmill.storage.results.results import failures
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs
from tests.storage.builders import (
    COPY,
    TRANSLATE,
    assert_status,
    at_once,
    chunks,
    count_rows,
    documents,
    finish,
    make_chunk,
    n_documents,
    numbered,
    planned,
    read,
    read_chunk,
    records,
    request,
    work,
)


class Killed(Exception):
    """The process that reads is killed."""


def read_counts(database: Database, ingest_id: int) -> tuple[int, int, int, int, int]:
    """Return the counts of an ingest's records: all, new, changed, unchanged, repeated."""
    [row] = database.rows(select(Ingest).where(Ingest.id == ingest_id))
    return row.n_records, row.n_new, row.n_changed, row.n_unchanged, row.n_repeated


def test_an_interrupted_reading_is_continued_by_reading_again(database: Database) -> None:
    texts = numbered(10)
    cut_off = read(database, request(), texts, chunk=3, stop_after=2)
    job = read(database, request(), texts, chunk=3)
    assert job.adopted
    assert job.id == cut_off.id
    assert documents(database, job) == dict(texts)
    assert n_documents(database) == 10
    assert list(planned(database, job).values()) == [1] * 10
    assert read_counts(database, job.ingest_id) == (10, 10, 0, 0, 0)
    again = jobs.open_job(database, request())
    assert ingest.add(database, again, records(texts)) == Counts(records=10, unchanged=10, again=10)
    assert ingest.end(database, again) == (10, Counts())


def test_metadata_counts_for_the_size_of_a_chunk() -> None:
    pages = [{"text": f"short {n}", "html": "x" * (columns.CHUNK_CHARS // 3)} for n in range(6)]
    source = MemorySource(pages, SourceOptions(), has_corpus=True)
    assert [chunk.n_records for chunk, _ in columns.read_chunks(source)] == [3, 3]


def test_a_chunk_that_is_stored_twice_counts_once(database: Database) -> None:
    read(database, request("b.jsonl"), numbered(2))
    job = jobs.open_job(database, request())
    chunk, rejected = records(numbered(4)), [Rejection("a.jsonl:5", "not JSON")]
    ingest.add(database, job, chunk, rejected)  # the answer of its commit is lost
    ingest.end(database, job, ingest.add(database, job, chunk, rejected))
    assert read_counts(database, job.ingest_id) == (4, 2, 0, 2, 0)
    assert read_status(database, job.id).rejected == 1


def test_changed_metadata_or_flags_alone_make_a_new_version(database: Database) -> None:
    job = read(database, request(), [("a", "one")])
    other_meta = make_chunk(("a", "one", {"year": 1900}, (), 0))
    assert ingest.add(database, job, other_meta).changed == 1
    other_flags = make_chunk(("a", "one", {"year": 1900}, ("nul-replaced",), 0))
    assert ingest.add(database, job, other_flags).changed == 1
    for paid in (1, True, [1], [True]):  # Python takes one for the other
        assert ingest.add(database, job, make_chunk(("a", "one", {"paid": paid}, (), 0))).changed == 1
    assert sum(planned(database, job).values()) == 1


def test_metadata_reads_back_equal_whatever_json_makes_of_it(database: Database) -> None:
    awkward = {"ratio": 1e300, "tiny": 1e-7, "whole": 100.0, "list": (1, 2), "nested": {"b": None, "a": "ä"}}
    chunk = make_chunk(("a", "one", awkward, (), 0))
    job = jobs.open_job(database, request())
    assert ingest.add(database, job, chunk).new == 1
    assert ingest.add(database, job, chunk).unchanged == 1


def test_a_later_record_of_a_key_counts_as_repeated_whether_it_differs_or_not(database: Database) -> None:
    job = jobs.open_job(database, request())
    ingest.add(database, job, records([("a", "one"), ("b", "x")]))
    counts = ingest.add(database, job, records([("a", "one"), ("b", "y")], 4))
    assert counts == Counts(records=2, repeated=2, planned=1)


@pytest.mark.parametrize("chunk", [1, 10])
def test_a_source_with_a_repeated_key_adds_nothing_when_it_is_read_again(database: Database, chunk: int) -> None:
    texts = [("a", "one"), ("b", "x"), ("a", "two"), ("a", "three")]
    read(database, request(), texts, chunk=chunk)
    rows = n_documents(database)
    again = read(database, request(spec=TRANSLATE), texts, chunk=chunk)
    assert n_documents(database) == rows
    assert documents(database, again) == {"a": "three", "b": "x"}
    assert read_counts(database, again.ingest_id) == (4, 0, 0, 2, 2)
    assert planned(database, again) == {"three": 1, "x": 1}


def test_the_older_of_two_records_counts_once_the_newer_is_gone_from_the_source(database: Database) -> None:
    read(database, request(), [("a", "one"), ("b", "x"), ("a", "two")], chunk=1)
    job = read(database, request(spec=TRANSLATE), [("a", "one"), ("b", "x")], chunk=1)
    assert documents(database, job) == {"a": "one", "b": "x"}
    assert planned(database, job)["one"] == 1
    assert read_counts(database, job.ingest_id) == (2, 0, 1, 1, 0)
    rows = n_documents(database)
    read(database, request(), [("a", "one"), ("b", "x")], chunk=1)
    assert n_documents(database) == rows


def test_a_change_by_another_reading_meanwhile_is_not_undone(database: Database) -> None:
    read(database, request(), [("a", "one"), ("a", "two")], chunk=1)
    mine = jobs.open_job(database, request(spec=TRANSLATE))
    ingest.add(database, mine, records([("a", "one")]))
    read(database, request("other.jsonl"), [("a", "news")])
    ingest.end(database, mine)
    assert documents(database) == {"a": "news"}


def test_a_second_reading_that_stops_at_once_takes_nothing_from_the_first(database: Database) -> None:
    texts = [("a", "one"), ("b", "x"), ("a", "two"), ("b", "y")]
    read(database, request(), texts, chunk=1)
    first = jobs.open_job(database, request(spec=TRANSLATE))
    counts = ingest.add(database, first, records([("a", "one")]), [Rejection("line 2", "no JSON")])
    second = jobs.open_job(database, request(spec=TRANSLATE))
    ingest.add(database, second, records([("b", "x")]))
    counts += ingest.add(database, first, records([("b", "y")], 1))
    ingest.end(database, first, counts)
    assert documents(database, first) == {"a": "one", "b": "y"}
    assert read_state(database, first.id)[2:] == (2, ["line 2"])


def test_a_corpus_that_is_named_after_its_source_is_not_read_by_other_fields(database: Database) -> None:
    """A corpus with a name of its own takes what it is given."""
    body, text = ({"text_field": field, "id_field": "nr", "limit": None} for field in ("body", "text"))
    read(database, request(corpus="a.jsonl", options=body), numbered(3))
    for name in ("a.jsonl", "a.jsonl (first 4)"):
        read(database, request(corpus=name, spec=TRANSLATE, options=body), numbered(3))
        with pytest.raises(StorageError, match="--text-field body, and --text-field text would replace"):
            jobs.open_job(database, request(corpus=name, options=text))
    assert count_rows(database, Job) == 3
    for options in (body, text):
        read(database, request(options=options), numbered(3))


def test_a_grown_corpus_computes_only_its_new_texts(database: Database) -> None:
    read(database, request("a.jsonl"), numbered(3))
    work(database)
    job = read(database, request("b.jsonl"), [("x", "new"), ("y", "text 1")])
    assert planned(database, job) == {"new": 1}
    assert_status(database, job.id, documents=5, done=3, pending=1)


def test_the_sweep_continues_where_a_crash_stopped_it(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SWEEP_DOCUMENTS", 4)
    texts = [(f"k{i}", f"text {i % 6}") for i in range(10)]
    read(database, request("a.jsonl"), texts)
    pages = 0

    def killed_on_the_second(*arguments: Any) -> Any:
        nonlocal pages
        pages += 1
        if pages == 2:
            raise Killed
        return planning.sweep_page(*arguments)

    monkeypatch.setattr("docmill.storage.ingest.ingest.sweep_page", killed_on_the_second)
    cut_off = jobs.open_job(database, request("b.jsonl", spec=TRANSLATE))
    with pytest.raises(Killed):
        ingest.end(database, cut_off)
    assert planned(database, cut_off) == {f"text {i}": 1 for i in range(4)}
    monkeypatch.setattr("docmill.storage.ingest.ingest.sweep_page", planning.sweep_page)
    job = read(database, request("b.jsonl", spec=TRANSLATE), [("x", "text 5"), ("y", "new")])
    assert job.id == cut_off.id
    assert planned(database, job) == {f"text {i}": 1 for i in range(6)} | {"new": 1}


@pytest.mark.parametrize(("near", "page"), [(1, 1), (3, 2), (100, 5)])
def test_the_sweep_passes_over_the_documents_of_its_own_source(
    database: Database, monkeypatch: pytest.MonkeyPatch, near: int, page: int
) -> None:
    monkeypatch.setattr(planning, "NEAR_DOCUMENTS", near)
    monkeypatch.setattr(planning, "SWEEP_DOCUMENTS", page)
    read(database, request("a.jsonl"), numbered(6))
    job = jobs.open_job(database, request("b.jsonl", spec=TRANSLATE))
    ingest.add(database, job, records([(f"own{i}", f"own {i}") for i in range(9)]))
    meanwhile = jobs.open_job(database, request("c.jsonl"))
    ingest.add(database, meanwhile, records([("x", "between"), ("k0", "changed")]))
    ingest.add(database, job, records([("last", "own last")]))
    swept: set[int] = set()

    def watched(*arguments: Any) -> Any:
        swept.update(arguments[3])
        return plan_new(*arguments)

    plan_new = planning.plan_new
    monkeypatch.setattr(planning, "plan_new", watched)
    database.execute(update(Document).where(Document.key == "k5").values(gone=True))
    ingest.end(database, job)
    wanted = [f"own {i}" for i in range(9)] + ["own last", "between", "changed"] + [f"text {i}" for i in range(1, 5)]
    assert planned(database, job) == dict.fromkeys(wanted, 1)
    assert len(swept) == 6  # texts of other sources, none of its own


def test_a_job_covers_documents_that_another_reading_brought_during_its_own(database: Database) -> None:
    earlier = jobs.open_job(database, request("a.jsonl"))
    later = jobs.open_job(database, request("b.jsonl", spec=TRANSLATE))
    ingest.add(database, later, records([("k", "both"), ("l", "later")]))
    ingest.add(database, earlier, records([("k", "both"), ("e", "earlier")]))
    for job in (later, earlier):
        ingest.end(database, job)
        assert documents(database, job) == {"k": "both", "l": "later", "e": "earlier"}
        assert planned(database, job) == {"both": 1, "later": 1, "earlier": 1}


def test_a_command_ends_its_reading_although_another_command_began_it_again(database: Database) -> None:
    first = jobs.open_job(database, request())
    counts = ingest.add(database, first, records(numbered(4)))
    second = jobs.open_job(database, request())
    counts += ingest.add(database, first, records(numbered(2, 4), 4))
    ingest.end(database, first, counts)
    ingest.end(database, second, ingest.add(database, second, records(numbered(6))))
    assert n_documents(database) == 6


def test_two_jobs_of_one_corpus_read_at_once_both_cover_all_of_it(database: Database) -> None:
    left, right = numbered(60), numbered(60, first=30)
    acts = [
        lambda: read(database, request("left", spec=COPY), left, chunk=7),
        lambda: read(database, request("right", spec=TRANSLATE), right, chunk=7),
    ]
    last = max(at_once(*acts), key=lambda job: len(documents(database, job)))
    assert documents(database, last) == dict(left + right)
    assert n_documents(database) == 90
    finish(database)
    assert_status(database, last.id, state="done", done=90, documents=90)


def test_a_cancelled_job_accepts_no_more_documents(database: Database) -> None:
    job = jobs.open_job(database, request())
    jobs.cancel(database, job.id)
    for act in (
        lambda: ingest.add(database, job, records(numbered(1))),
        lambda: ingest.end(database, job),
    ):
        with pytest.raises(JobStopped, match="cancelled"):
            act()
    assert n_documents(database) == 0


def test_a_cancel_at_the_end_of_a_reading_holds(postgres: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    read(postgres, request("b.jsonl"), numbered(2, 2))
    read(postgres, request(), numbered(2))
    again = jobs.open_job(postgres, request())

    def sweep_beside_a_cancel(*arguments: Any) -> tuple[int, bool]:
        swept = planning.sweep_page(*arguments)
        assert jobs.cancel(postgres, again.id)
        return swept

    monkeypatch.setattr("docmill.storage.ingest.ingest.sweep_page", sweep_beside_a_cancel)
    with pytest.raises(JobStopped, match="cancelled"):
        ingest.end(postgres, again)
    assert read_status(postgres, again.id).state == "cancelled"


def test_a_rejection_at_a_long_place_is_kept(postgres: Database) -> None:
    place = random.Random(0).randbytes(2_000).hex()  # which PostgreSQL cannot compress to fit its index
    job = read_chunk(postgres, request(), records(numbered(1)), [Rejection(place, "the id takes 4,000 bytes")])
    assert [row["id"] for row in failures(postgres, job.id)] == [place[:2_000]]


def test_a_rejection_is_forgotten_if_its_record_was_repaired_before_the_reading_continued(database: Database) -> None:
    job = jobs.open_job(database, request())
    ingest.add(database, job, make_chunk(), [Rejection("a.jsonl:3", "not JSON")])
    job = read(database, request(), numbered(3))
    assert list(failures(database, job.id)) == []


def test_skipped_and_failed_texts_of_earlier_jobs_are_counted_as_prior(database: Database) -> None:
    read(database, request(), numbered(4))

    def mixed(claim: Claim) -> list[Outcome]:
        wanted = [Status.DONE, Status.FAILED, Status.SKIPPED, Status.DONE]
        texts = {Status.DONE: "copied"}
        return [
            Outcome(content_id, status, text=texts.get(status))
            for (content_id, _), status in zip(claim.texts, wanted, strict=True)
        ]

    work(database, mixed)
    assert_status(database, read(database, request("b.jsonl"), []).id, done=2, failed=1, skipped=1, pending=0)


def read_state(database: Database, job_id: int) -> tuple[str, int, int, list[str]]:
    """Return the state of a job, the numbers of its documents and records, and the places of rejected records."""
    status = read_status(database, job_id)
    rejected = [row["id"] for row in failures(database, job_id) if row["status"] == "rejected"]
    return status.state, status.documents, status.records, rejected


def read_with_a_rejection(database: Database) -> int:
    return read_chunk(database, request(), records(numbered(4)), [Rejection("line 9", "no JSON")]).id


@pytest.mark.parametrize("n_chunks", [0, 1])
def test_a_complete_job_stays_as_it_was_when_the_same_command_is_killed(database: Database, n_chunks: int) -> None:
    job_id = read_with_a_rejection(database)
    again = jobs.open_job(database, request())
    assert (again.id, again.adopted) == (job_id, True)
    for part in chunks(numbered(4), 2)[:n_chunks]:
        ingest.add(database, again, part, [Rejection("line 9", "no JSON")])
    work(database)
    assert jobs.finish(database) == [job_id]
    assert read_state(database, job_id) == ("done", 4, 4, ["line 9"])
    assert read_status(database, job_id).rejected == 1


def test_the_same_command_continues_a_complete_job_whose_source_has_grown(database: Database) -> None:
    job_id = read_with_a_rejection(database)
    read(database, request(), numbered(6), chunk=5, stop_after=1)
    work(database)
    assert jobs.finish(database) == [], "the new documents may be only a part"
    assert read_status(database, job_id).state == "ingesting"
    read(database, request(), numbered(6), chunk=5)
    work(database)
    assert jobs.finish(database) == [job_id]
    assert read_state(database, job_id) == ("done", 6, 6, []), "the rejected line has become records"
    assert read_counts(database, 1) == (6, 6, 0, 0, 0)


def test_a_job_that_ends_while_its_source_is_read_again_covers_all_of_it(database: Database) -> None:
    job_id = read_with_a_rejection(database)
    same, more = (jobs.open_job(database, request()) for _ in range(2))
    work(database)
    assert jobs.finish(database) == [job_id]
    counts = ingest.add(database, same, records(numbered(4)), [Rejection("line 9", "no JSON")])
    assert read_status(database, job_id).state == "done"
    ingest.end(database, same, counts)
    assert read_state(database, job_id) == ("done", 4, 4, ["line 9"])
    counts = ingest.add(database, more, records(numbered(6)))
    reopened = select(Job.state, Job.finished_at, Ingest.state).join(Ingest, Ingest.id == Job.ingest_id)
    assert database.rows(reopened.where(Job.id == job_id)) == [("ingesting", None, "reading")]
    ingest.end(database, more, counts)
    assert read_status(database, job_id).state == "running"
    work(database)
    assert jobs.finish(database) == [job_id]
    assert read_state(database, job_id) == ("done", 6, 6, ["line 9"]), "the first of the two readings rejected it"
    assert read_status(database, job_id).done == 6


def test_a_done_job_stays_done_while_it_sweeps_documents_with_results(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SWEEP_DOCUMENTS", 2)
    job = read(database, request(), numbered(3))
    again = jobs.open_job(database, request())
    work(database)
    assert jobs.finish(database) == [job.id]
    read(database, request("b.jsonl"), [(f"z{i}", f"text {i % 3}") for i in range(5)])
    counts = ingest.add(database, again, records(numbered(3)))
    states: list[str] = []
    monkeypatch.setattr(fault_points, "reach", lambda _: states.append(read_status(database, job.id).state))
    ingest.end(database, again, counts)
    assert states == ["done"] * 3, "the job is done even if the command is killed between these steps"
    assert read_status(database, job.id).documents == 8


def test_reading_a_source_again_finds_documents_of_other_sources(database: Database) -> None:
    first = read(database, request(), numbered(2))
    read(database, request("b.jsonl", spec=TRANSLATE), [("z", "from another source")])
    again = read(database, request(), numbered(2))
    assert again.id == first.id
    assert planned(database, first)["from another source"] == 1
    finish(database)
    assert read_status(database, first.id).done == 3


def put_false_text(database: Database) -> None:
    """Store a text under the hash of another text, which will be read."""
    false = {"id": 10**6, "sha256": hashlib.sha256(b"text 1").digest(), "text": "another", "n_chars": 7}
    database.write(lambda transaction: transaction.execute(transaction.insert(Content).values(**false)))


def test_postgresql_refuses_a_text_under_the_hash_of_another(postgres: Database) -> None:
    with pytest.raises(StorageError, match="ck_content_sha256"):
        put_false_text(postgres)
    assert documents(postgres, read(postgres, request(), numbered(3))) == dict(numbered(3))


def test_a_false_text_in_a_sqlite_file_becomes_no_document(sqlite: Database) -> None:
    put_false_text(sqlite)
    with pytest.raises(StorageError, match="the text 1000000 in the table content is not the text of its hash"):
        read(sqlite, request(), numbered(3))
