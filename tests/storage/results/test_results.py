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
    make_chunk,
    numbered,
    read,
    read_chunk,
    records,
    request,
    work,
)


def mixed(claim: Claim) -> list[Outcome]:
    """Return the outcomes of three texts: a result, a failure, and the skipping of an empty text."""
    (first, _), (second, _), (third, _) = claim.texts
    return [
        Outcome(first, Status.DONE, text="out"),
        Outcome(second, Status.FAILED, reason="too long", reason_class=Reason.DOCUMENT),
        Outcome(third, Status.SKIPPED, reason="empty"),
    ]


def test_samples_prefer_results_without_flags(database: Database) -> None:
    flags = {"t0": ("output_truncated", "empty_window"), "t1": ("reduced",), "t2": (), "t3": ("output_truncated",)}
    texts = [("a", "t0"), ("b", "t1"), ("c", "t2"), ("d", "t3"), ("e", "t3"), ("f", "t2")]
    job = read(database, request(), [("fails", "t4"), *texts])
    work(database, by_text(lambda text: {"text": text, "flags": flags[text]} if text in flags else None))
    assert [row["id"] for row in samples(database, job.id)] == ["c", "f", "b"]
    assert [row["id"] for row in samples(database, job.id, 9)] == ["c", "f", "b", "a", "d", "e"]
    assert samples(database, job.id)[0]["input"] == "t2"
    assert [row["id"] for row in samples(database, job.id, of=3)] == ["b", "a"], "it looks only at the first three"


def test_documents_of_several_sources_at_the_same_place_are_all_listed(database: Database) -> None:
    for name in "abc":  # two pages meet between documents of one place
        job = read(database, request(name), [(f"{name}{i}", f"text {i % 10}") for i in range(400)])
    work(database, echo)
    ids = [row["id"] for row in results(database, job.id)]
    assert ids == [f"{name}{i}" for i in range(400) for name in "abc"]


def test_a_result_has_all_of_its_fields(database: Database) -> None:
    meta = {"year": 1900, "tags": ["x", "ä"]}
    job = read_chunk(database, request(), make_chunk(("k", "a text", meta, ("nul-replaced",), 0)))
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


def test_failures_are_failed_and_skipped_documents_then_rejected_records(database: Database) -> None:
    rejected = [Rejection(f"a.jsonl:{n}", "not JSON") for n in range(1, 1_101)]
    rejected.append(Rejection("a.jsonl@90000", "the gzip data is damaged", fatal=True))
    job_request = request("/data/what-a-link-named-a.jsonl-leads-to")
    job = read_chunk(database, job_request, records([("a", "one"), ("b", "two"), ("c", "")]), rejected)
    commit_next(database, mixed)
    rows = list(failures(database, job.id))
    assert rows[:2] == [
        {"id": "b", "status": "failed", "class": "document", "reason": "too long"},
        {"id": "c", "status": "skipped", "class": None, "reason": "empty"},
    ]
    assert [row["id"] for row in rows[2:]] == [rejection.where for rejection in rejected]


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
    plain = [{key: row[key] for key in row if key not in {"outcome", "reason"}} for row in rows]
    assert [row for row in plain if "text" in row] == list(results(database, job.id))
    cells = [[column.value(row) for column in columns(database, job.id, with_outcome=True)] for row in rows]
    assert [row[-2:] for row in cells] == [[row["outcome"], row["reason"]] for row in rows]


def test_inputs_of_several_steps_have_the_outcome_of_the_first_step_without_a_result(database: Database) -> None:
    steps = (StepRequest("first", COPY), StepRequest("second", TRANSLATE, input="first"))
    job = read(database, request(steps=steps), [("a", "one"), ("b", "two")])
    work(database, by_text(lambda text: None if text in {"two", "one more"} else {"text": f"{text} more"}))
    assert [(row["outcome"], row["reason"], [*row["steps"]]) for row in inputs(database, job.id)] == [
        ("failed", "second: too long", ["first"]),
        ("failed", "first: too long", []),
    ]
    named = [(row["outcome"], row["reason"]) for row in inputs(database, job.id, step="second")]
    assert named == [("failed", "too long"), ("blocked", "first failed: too long")]


def test_a_document_is_not_done_before_each_step_that_reads_it(database: Database) -> None:
    steps = (
        StepRequest("first", COPY),
        StepRequest("second", TRANSLATE, input="first", flagged=Flagged.parse(["empty"])),
    )
    job = read(database, request(steps=steps), [("a", "one"), ("b", "two")])
    commit_next(database, by_text(lambda text: {"text": f"{text} more", "flags": ("empty",) * (text == "one")}))
    assert [(row["outcome"], [*row["steps"]]) for row in inputs(database, job.id)] == [
        ("pending", ["first"]),
        ("done", ["first"]),
    ]
    named = [(row["outcome"], row["reason"]) for row in inputs(database, job.id, step="second")]
    assert named == [("pending", None), ("left out", "not flagged empty")]
    jobs.cancel(database, job.id)
    first, second = inputs(database, job.id)
    assert (first["outcome"], first["reason"]) == ("not computed", "the job was cancelled")
    assert (second["outcome"], second["reason"]) == ("done", None)


def test_rejections_in_a_folder_are_in_the_order_of_their_paths(database: Database) -> None:
    rejected = [Rejection(place, "UTF-16") for place in ("b.txt", "a/10.txt", "a/2.txt", "notes:1")]
    job = read_chunk(database, request("/notes"), make_chunk(), rejected)
    assert [row["id"] for row in failures(database, job.id)] == ["notes:1", "a/10.txt", "a/2.txt", "b.txt"]


@pytest.mark.parametrize("n_failed", [7, 40])
def test_failures_are_in_the_order_of_the_source_whether_few_or_many(
    database: Database, monkeypatch: pytest.MonkeyPatch, n_failed: int
) -> None:
    monkeypatch.setattr("docmill.storage.results.results.FEW", 20)
    texts = numbered(60)
    read(database, request(corpus="other"), texts[::-1])  # so that the contents are in another order
    job = read(database, request(), texts)
    work(database, lambda claim: [*failed(claim)[:n_failed], *done(claim)[n_failed:]])
    ids = [row["id"] for row in failures(database, job.id)]
    assert len(ids) == n_failed
    assert ids == [key for key, _ in texts if key in ids]


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
