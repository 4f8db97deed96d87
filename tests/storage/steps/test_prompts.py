"""Templates over metadata in the store: the content of a document is its rendered prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Content, Prompt
from docmill.storage.core.specs import Spec
from docmill.storage.deletion import gc
from docmill.storage.ingest import ingest
from docmill.storage.results.parts import fingerprints
from docmill.storage.results.results import failures, results
from docmill.storage.steps import jobs
from docmill.storage.steps.jobs import JobRequest, OpenJob
from docmill.storage.steps.steps import StepRequest
from tests.storage.builders import EMBED, count_rows, make_chunk, numbered, read, request
from tests.storage.fleet import Fleet, finish_job

PROMPTED = Spec("generate", "writer", "sha256:4", params={"prompt": "{meta.title}: {text}"})
STEPS = (StepRequest("prompted", PROMPTED), StepRequest("vector", EMBED, "prompted"), StepRequest("own", EMBED))
News = tuple[str, str, dict[str, Any]]  # key, text, metadata

NEWS: list[News] = [
    ("a", "Rain.", {"title": "Weather"}),
    ("b", "Rain.", {"title": "Sports"}),
    ("c", "Snow.", {"title": "Weather"}),
    ("d", " ", {"title": "Nothing"}),
    ("e", "Rain.", {"title": "Weather"}),
    ("f", "Hail.", {}),
]


def request_news(source: str = "a.jsonl", steps: Sequence[StepRequest] = STEPS) -> JobRequest:
    return request(source, corpus="news", steps=steps)


def read_news(database: Database, job_request: JobRequest, news: Sequence[News], chunk: int = 4) -> OpenJob:
    """Read a source of news with their metadata into a job."""
    job = jobs.open_job(database, job_request)
    for first in range(0, len(news), chunk):
        part = [(key, text, meta, (), first + n) for n, (key, text, meta) in enumerate(news[first : first + chunk])]
        ingest.add(database, job, make_chunk(*part))
    ingest.end(database, job)
    return job


def read_prompted(database: Database, job: OpenJob) -> dict[str, str]:
    """Return the outputs of the prompted step by document."""
    return {row["id"]: row["text"] for row in results(database, job.id, step="prompted")}


def test_each_prompt_has_the_metadata_of_its_document(database: Database, fleet: Fleet) -> None:
    fleet.fails = lambda kind, text: not text.strip() or "Hail" in text
    job = read_news(database, request_news(), NEWS)
    status = fleet.end(job)
    assert read_prompted(database, job) == {
        "a": "generate(Weather: Rain.)",
        "b": "generate(Sports: Rain.)",
        "c": "generate(Weather: Snow.)",
        "e": "generate(Weather: Rain.)",
    }
    assert {name: mark["done"] for name, mark in fingerprints(database, job.id).items()} == {
        "prompted": 4,
        "vector": 4,
        "own": 4,
    }
    # Documents a and e have the same prompt; all documents about rain have the same text.
    assert fleet.computed["generate", "Weather: Rain."] == fleet.computed["embed", "Rain."] == 1
    first, second, third = status.steps
    assert (first.done, first.failed, second.done, second.blocked, third.done) == (3, 2, 3, 2, 2)
    rows = {row["id"]: row["steps"] for row in results(database, job.id, with_input=True)}
    assert set(rows["b"]) == {"prompted", "vector", "own"}
    assert "f" not in rows
    lost = {(row["id"], row["step"], row["status"]) for row in failures(database, job.id)}
    assert {("f", "prompted", "failed"), ("f", "vector", "blocked"), ("d", "prompted", "failed")} <= lost


@pytest.mark.parametrize("chunk", [1, 100])
def test_a_run_with_nothing_new_computes_nothing(database: Database, fleet: Fleet, chunk: int) -> None:
    read_news(database, request_news(), NEWS, chunk)
    fleet.work()
    computed = fleet.computed.copy()
    assert {*computed.values()} == {1}, "documents of a chunk with the same prompt have one text"
    n_contents = count_rows(database, Content)
    again = read_news(database, request_news("b.jsonl"), NEWS, chunk)
    fleet.work()
    assert fleet.computed == computed
    assert finish_job(database, again).state == "done"
    assert count_rows(database, Content) == n_contents
    assert read_prompted(database, again)["b"] == "generate(Sports: Rain.)"


def test_new_metadata_is_a_new_prompt_for_that_document_alone(database: Database, fleet: Fleet) -> None:
    before = read_news(database, request_news(), NEWS)
    fleet.end(before)
    fleet.computed.clear()
    changed: list[News] = [("b", "Rain.", {"title": "Politics"}), *NEWS[:1], *NEWS[2:]]
    after = read_news(database, request_news("b.jsonl"), changed)
    fleet.end(after)
    assert fleet.computed == {
        ("generate", "Politics: Rain."): 1,
        ("embed", "generate(Politics: Rain.)"): 1,
    }
    assert read_prompted(database, after)["b"] == "generate(Politics: Rain.)"
    assert read_prompted(database, before)["b"] == "generate(Sports: Rain.)", "a job sees the corpus as it was"


def test_a_crash_during_a_reading_loses_no_prompt_and_plans_none_twice(database: Database, fleet: Fleet) -> None:
    steps = (StepRequest("prompted", Spec("generate", "writer", "sha256:4", params={"prompt": "{meta.n}: {text}"})),)
    job = read(database, request_news(steps=steps), numbered(300), chunk=50, stop_after=3)
    fleet.work()
    again = read(database, request_news(steps=steps), numbered(300), chunk=70)
    assert again.id == job.id
    assert fleet.end(again).done == 300
    assert set(fleet.computed.values()) == {1}
    assert len(read_prompted(database, again)) == 300


def test_results_of_an_unfinished_job_keep_their_prompts(database: Database, fleet: Fleet) -> None:
    read_news(database, request_news(), NEWS)
    fleet.work()  # without ending the job
    gc.drop(database)
    assert count_rows(database, Prompt) == len(NEWS)
