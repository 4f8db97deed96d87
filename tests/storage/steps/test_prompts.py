"""Templates over metadata in the store: the rendered prompt is the content, for each document its own."""

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
from tests.storage.builders import EMBED, count_rows, gathered, numbered, read
from tests.storage.steps.test_steps import Fleet, finished

TOLD = Spec("generate", "writer", "sha256:4", params={"prompt": "{meta.title}: {text}"})
STEPS = (StepRequest("told", TOLD), StepRequest("vector", EMBED, "told"), StepRequest("own", EMBED))
News = tuple[str, str, dict[str, Any]]  # key, text, metadata

NEWS: list[News] = [
    ("a", "Rain.", {"title": "Weather"}),
    ("b", "Rain.", {"title": "Sports"}),
    ("c", "Snow.", {"title": "Weather"}),
    ("d", " ", {"title": "Nothing"}),
    ("e", "Rain.", {"title": "Weather"}),
    ("f", "Hail.", {}),
]


def asked(source: str = "a.jsonl", steps: Sequence[StepRequest] = STEPS) -> JobRequest:
    return JobRequest(corpus="news", source=source, steps=tuple(steps))


def take(database: Database, request: JobRequest, news: Sequence[News], chunk: int = 4) -> OpenJob:
    job = jobs.open_job(database, request)
    for first in range(0, len(news), chunk):
        part = [(key, text, meta, (), first + n) for n, (key, text, meta) in enumerate(news[first : first + chunk])]
        ingest.add(database, job, gathered(*part))
    ingest.end(database, job)
    return job


def told(database: Database, job: OpenJob) -> dict[str, str]:
    return {row["id"]: row["text"] for row in results(database, job.id, step="told")}


def test_each_document_is_asked_about_with_its_own_metadata(database: Database, fleet: Fleet) -> None:
    fleet.fails = lambda kind, text: not text.strip() or "Hail" in text
    job = take(database, asked(), NEWS)
    status = fleet.end(job)
    assert told(database, job) == {
        "a": "generate(Weather: Rain.)",
        "b": "generate(Sports: Rain.)",
        "c": "generate(Weather: Snow.)",
        "e": "generate(Weather: Rain.)",
    }
    assert {name: mark["done"] for name, mark in fingerprints(database, job.id).items()} == {
        "told": 4,
        "vector": 4,
        "own": 4,
    }
    # One prompt for a and e, and one text for all that it rained.
    assert fleet.computed["generate", "Weather: Rain."] == fleet.computed["embed", "Rain."] == 1
    first, second, third = status.steps
    assert (first.done, first.failed, second.done, second.blocked, third.done) == (3, 2, 3, 2, 2)
    rows = {row["id"]: row["steps"] for row in results(database, job.id, with_input=True)}
    assert set(rows["b"]) == {"told", "vector", "own"}
    assert "f" not in rows
    lost = {(row["id"], row["step"], row["status"]) for row in failures(database, job.id)}
    assert {("f", "told", "failed"), ("f", "vector", "blocked"), ("d", "told", "failed")} <= lost


@pytest.mark.parametrize("chunk", [1, 100])
def test_a_run_with_nothing_new_computes_nothing(database: Database, fleet: Fleet, chunk: int) -> None:
    take(database, asked(), NEWS, chunk)
    fleet.work()
    computed = fleet.computed.copy()
    assert {*computed.values()} == {1}, "documents with one prompt in a chunk have one text"
    n_contents = count_rows(database, Content)
    again = take(database, asked("b.jsonl"), NEWS, chunk)
    fleet.work()
    assert fleet.computed == computed
    assert finished(database, again).state == "done"
    assert count_rows(database, Content) == n_contents
    assert told(database, again)["b"] == "generate(Sports: Rain.)"


def test_new_metadata_is_a_new_prompt_for_that_document_alone(database: Database, fleet: Fleet) -> None:
    before = take(database, asked(), NEWS)
    fleet.end(before)
    fleet.computed.clear()
    changed: list[News] = [("b", "Rain.", {"title": "Politics"}), *NEWS[:1], *NEWS[2:]]
    after = take(database, asked("b.jsonl"), changed)
    fleet.end(after)
    assert fleet.computed == {
        ("generate", "Politics: Rain."): 1,
        ("embed", "generate(Politics: Rain.)"): 1,
    }
    assert told(database, after)["b"] == "generate(Politics: Rain.)"
    assert told(database, before)["b"] == "generate(Sports: Rain.)", "a job sees the corpus as it was"


def test_a_crash_while_the_source_is_read_loses_no_prompt_and_plans_none_twice(
    database: Database, fleet: Fleet
) -> None:
    steps = (StepRequest("told", Spec("generate", "writer", "sha256:4", params={"prompt": "{meta.n}: {text}"})),)
    request = JobRequest(corpus="news", source="a.jsonl", steps=steps)
    job = read(database, request, numbered(300), chunk=50, stop_after=3)
    fleet.work()
    again = read(database, request, numbered(300), chunk=70)
    assert again.id == job.id
    assert fleet.end(again).done == 300
    assert set(fleet.computed.values()) == {1}
    assert len(told(database, again)) == 300


def test_results_of_a_job_that_goes_on_keep_their_prompts(database: Database, fleet: Fleet) -> None:
    take(database, asked(), NEWS)
    fleet.work()  # and nobody finishes it
    gc.drop(database)
    assert count_rows(database, Prompt) == len(NEWS)
