"""Results and failures of a job, page by page, in the order of the source."""

from __future__ import annotations

from collections import Counter

import pytest

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Outcome, Reason, Status
from docmill.storage.leases.shards import Claim
from docmill.storage.readers import Rejection
from docmill.storage.results.results import (
    Reservoir,
    columns,
    failures,
    inputs,
    results,
    samples,
)
from docmill.storage.steps import jobs
from docmill.storage.steps.conditions import Flagged
from docmill.storage.steps.jobs import JobRequest
from docmill.storage.steps.steps import StepRequest
from tests.storage.builders import (
    COPY,
    TRANSLATE,
    by_text,
    commit_next,
    done,
    echo,
    failed,
    flagged,
    gathered,
    numbered,
    read,
    read_chunk,
    records,
    request,
    work,
)


def mixed(claim: Claim) -> list[Outcome]:
    """Outcomes of three texts: the first is done, the second failed and the third, which is empty, skipped."""
    (one, _), (two, _), (empty, _) = claim.texts
    return [
        Outcome(one, Status.DONE, text="out"),
        Outcome(two, Status.FAILED, reason="too long", reason_class=Reason.DOCUMENT),
        Outcome(empty, Status.SKIPPED, reason="empty"),
    ]


def test_samples_have_no_flags_where_there_are_such(database: Database) -> None:
    flags = {"t0": ("output_truncated", "empty_window"), "t1": ("reduced",), "t2": (), "t3": ("output_truncated",)}
    texts = [("a", "t0"), ("b", "t1"), ("c", "t2"), ("d", "t3"), ("e", "t3"), ("f", "t2")]
    job = read(database, request(), [("fails", "t4"), *texts])
    work(database, by_text(lambda text: {"text": text, "flags": flags[text]} if text in flags else None))
    assert [row["id"] for row in samples(database, job.id)] == ["c", "f", "b"]
    assert [row["id"] for row in samples(database, job.id, 9)] == ["c", "f", "b", "a", "d", "e"]
    assert samples(database, job.id)[0]["input"] == "t2"
    assert [row["id"] for row in samples(database, job.id, of=3)] == ["b", "a"], "it looks at the first ones alone"


def test_documents_of_several_sources_with_one_place_in_their_order_are_all_there(database: Database) -> None:
    for name in "abc":  # the border between two pages falls between documents of one place
        job = read(database, request(name), [(f"{name}{i}", f"text {i % 10}") for i in range(400)])
    work(database, echo)
    found = [row["id"] for row in results(database, job.id)]
    assert found == [f"{name}{i}" for i in range(400) for name in "abc"]


def test_a_result_has_everything_that_its_reader_needs(database: Database) -> None:
    meta = {"year": 1900, "tags": ["x", "ä"]}
    job = read_chunk(database, request(), gathered(("k", "a text", meta, ("nul-replaced",), 0)))
    commit_next(database, lambda claim: flagged(claim, "truncated"))
    expected = {
        "id": "k",
        "task": "copy",
        "text": "out",
        "tokens_in": 3,
        "tokens_out": 2,
        "flags": ["nul-replaced", "truncated"],
        "meta": meta,
    }
    assert list(results(database, job.id)) == [expected]
    assert list(results(database, job.id, with_input=True)) == [expected | {"input": "a text"}]
    assert list(results(database, job.id, limit=0)) == []


def test_an_export_is_not_shifted_by_what_is_stored_while_it_runs(database: Database) -> None:
    job = read(database, request(), numbered(1_500))
    work(database, echo)
    running = results(database, job.id)
    first = [next(running) for _ in range(10)]
    read(database, request("b.jsonl"), [("k1200", "changed"), ("new", "new")])
    work(database, echo)
    found = first + list(running)
    assert [row["id"] for row in found] == [key for key, _ in numbered(1_500)]
    assert found[1_200]["text"] == "out of text 1200"


def test_failures_are_failed_and_skipped_documents_then_rejected_records(database: Database) -> None:
    rejected = [Rejection(f"a.jsonl:{n}", "not JSON") for n in range(1, 1_101)]
    rejected.append(Rejection("a.jsonl@90000", "the gzip data is damaged", fatal=True))
    asked = request("/data/what-a-link-named-a.jsonl-leads-to")
    job = read_chunk(database, asked, records([("a", "one"), ("b", "two"), ("c", "")]), rejected)
    commit_next(database, mixed)
    found = list(failures(database, job.id))
    assert found[:2] == [
        {"id": "b", "status": "failed", "class": "document", "reason": "too long"},
        {"id": "c", "status": "skipped", "class": None, "reason": "empty"},
    ]
    assert [row["id"] for row in found[2:]] == [one.where for one in rejected]


def test_every_input_has_a_row_with_its_outcome_and_the_reason(database: Database) -> None:
    rejected = [Rejection("a.jsonl:10", "not JSON"), Rejection("a.jsonl:9", "not JSON")]
    documents = records([("a", "one"), ("b", "two"), ("c", ""), ("d", "one")])
    job = read_chunk(database, request("a.jsonl"), documents, rejected)
    assert [row["outcome"] for row in inputs(database, job.id)] == ["pending"] * 4 + ["rejected"] * 2
    commit_next(database, mixed)
    rows = list(inputs(database, job.id))
    assert [(row["id"], row["outcome"], row["reason"], row.get("text")) for row in rows] == [
        ("a", "done", None, "out"),
        ("b", "failed", "too long", None),
        ("c", "skipped", "empty", None),
        ("d", "done", None, "out"),
        ("a.jsonl:9", "rejected", "not JSON", None),
        ("a.jsonl:10", "rejected", "not JSON", None),
    ]
    without = [{key: row[key] for key in row if key not in {"outcome", "reason"}} for row in rows]
    assert [row for row in without if "text" in row] == list(results(database, job.id))
    cells = [[column.value(row) for column in columns(database, job.id, with_outcome=True)] for row in rows]
    assert [row[-2:] for row in cells] == [[row["outcome"], row["reason"]] for row in rows]


def test_inputs_of_several_steps_have_the_outcome_of_the_first_step_without_a_result(database: Database) -> None:
    several = (StepRequest("first", COPY), StepRequest("second", TRANSLATE, input="first"))
    job = read(database, JobRequest(corpus="books", source="a.jsonl", steps=several), [("a", "one"), ("b", "two")])
    work(database, by_text(lambda text: None if text in {"two", "one more"} else {"text": f"{text} more"}))
    assert [(row["outcome"], row["reason"], [*row["steps"]]) for row in inputs(database, job.id)] == [
        ("failed", "second: too long", ["first"]),
        ("failed", "first: too long", []),
    ]
    named = [(row["outcome"], row["reason"]) for row in inputs(database, job.id, step="second")]
    assert named == [("failed", "too long"), ("blocked", "first failed: too long")]


def test_a_document_is_not_done_before_each_step_that_reads_it(database: Database) -> None:
    several = (
        StepRequest("first", COPY),
        StepRequest("second", TRANSLATE, input="first", flagged=Flagged.parse(["empty"])),
    )
    job = read(database, JobRequest(corpus="books", source="a.jsonl", steps=several), [("a", "one"), ("b", "two")])
    commit_next(
        database, by_text(lambda text: {"text": f"{text} more", "flags": ("empty",) if text == "one" else ()})
    )
    assert [(row["outcome"], [*row["steps"]]) for row in inputs(database, job.id)] == [
        ("pending", ["first"]),
        ("done", ["first"]),
    ]
    jobs.cancel(database, job.id)
    first, second = inputs(database, job.id)
    assert (first["outcome"], first["reason"]) == ("not computed", "the job was cancelled")
    assert (second["outcome"], second["reason"]) == ("done", None)


def test_rejections_in_a_folder_come_in_the_order_of_their_paths(database: Database) -> None:
    rejected = [Rejection(place, "UTF-16") for place in ("b.txt", "a/10.txt", "a/2.txt", "notes:1")]
    job = read_chunk(database, request("/notes"), gathered(), rejected)
    assert [row["id"] for row in failures(database, job.id)] == ["notes:1", "a/10.txt", "a/2.txt", "b.txt"]


@pytest.mark.parametrize("n_failed", [7, 40])
def test_failures_come_in_the_order_of_the_source_be_they_few_or_many(
    database: Database, monkeypatch: pytest.MonkeyPatch, n_failed: int
) -> None:
    monkeypatch.setattr("docmill.storage.results.results.FEW", 20)
    texts = numbered(60)
    read(database, request(corpus="other"), texts[::-1])  # so that the order of the contents is another one
    job = read(database, request(), texts)
    work(database, lambda claim: [*failed(claim)[:n_failed], *done(claim)[n_failed:]])
    found = [row["id"] for row in failures(database, job.id)]
    assert len(found) == n_failed
    assert found == [key for key, _ in texts if key in found]


@pytest.mark.parametrize("size", [1, 3])
def test_each_item_of_a_stream_has_the_same_chance_and_a_seed_fixes_the_draw(size: int) -> None:
    def draw(seed: int) -> list[int]:
        sample = Reservoir[int](size, seed)
        for item in range(10):
            sample.offer(item)
        return sample.kept

    assert draw(5) == draw(5)
    drawn = [draw(seed) for seed in range(3_000)]
    assert all(len({*sample}) == size for sample in drawn)
    counts = Counter(item for sample in drawn for item in sample)
    expected = 3_000 * size / 10
    assert all(abs(counts[item] - expected) < 5 * expected**0.5 for item in range(10))
    assert Reservoir[int](0).kept == []
