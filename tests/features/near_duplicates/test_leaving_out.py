"""Steps that read only the first of near duplicates: planning, results, status, and corpora that change."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from sqlalchemy import text as sql

from docmill.features.near_duplicates import clusters
from docmill.features.near_duplicates.methods import ByText
from docmill.storage.core.database import Database
from docmill.storage.ingest import ingest
from docmill.storage.pipelines import views
from docmill.storage.results.job_counts import count_flags
from docmill.storage.results.marked import flagged_page
from docmill.storage.results.results import failures, results
from docmill.storage.results.status import read_status
from docmill.storage.search.search import choose, search
from docmill.storage.steps import jobs
from docmill.storage.steps.conditions import Flagged
from docmill.storage.steps.jobs import IdempotencyKey, JobRequest, OpenJob
from docmill.storage.steps.steps import StepRequest
from tests.storage.builders import EMBED, TRANSLATE, Text, chunks, embedded, finish, read, request, work
from tests.storage.fleet import SUMMARIZE, pipeline
from tests.storage.steps.test_flag_conditions import Flagger

BASE = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
TEXTS = [("a", BASE), ("b", "another text"), ("c", f"{BASE} fifteen"), ("d", BASE), ("e", "the last text")]
KIND = "near-duplicates"
STEPS = (
    StepRequest("english", TRANSLATE, leaves_out=KIND),
    StepRequest("vector", EMBED, "english"),
    StepRequest("line", SUMMARIZE),
)


def read_into(database: Database, job_request: JobRequest, texts: list[Text], size: int = 2) -> OpenJob:
    """Read a source into a job as `worker.submit.enqueue` does: near duplicates are found when it was read."""
    job = jobs.open_job(database, job_request)
    for chunk in chunks(texts, size):
        ingest.add(database, job, chunk)
    ingest.end(database, job, update_filters=partial(deduplicate, database, job))
    return job


def deduplicate(database: Database, job: OpenJob) -> None:
    clusters.find(database, job.corpus_id, ByText())


def list_computed(database: Database, job: OpenJob, step: str) -> list[str]:
    return sorted(result["id"] for result in results(database, job.id, step=step))


def test_pages_of_failures_and_flags_show_no_document_that_is_left_out(database: Database) -> None:
    def shown(job: OpenJob) -> set[str]:
        return {result["id"] for result in flagged_page(database, job.id)[0]}

    everything = request(spec=TRANSLATE)
    first = read_into(database, everything, TEXTS)
    finish(database, Flagger(database, doubtful="").outcomes)
    job = read_into(database, replace(everything, steps=(StepRequest("english", TRANSLATE, leaves_out=KIND),)), TEXTS)
    assert list_computed(database, job, "english") == ["a", "b", "e"]
    assert "c" in shown(first)
    assert shown(job) <= {"a", "b", "e"}


def test_a_step_reads_only_first_documents_and_the_steps_behind_it_too(database: Database) -> None:
    flagger = Flagger(database, doubtful="")
    job = read_into(database, pipeline(steps=STEPS), TEXTS)
    finish(database, flagger.outcomes)
    assert flagger.texts_of("translate") == {BASE, "another text", "the last text"}
    assert flagger.texts_of("summarize") == {text for _, text in TEXTS}
    assert {step: list_computed(database, job, step) for step in ("english", "vector", "line")} == {
        "english": ["a", "b", "e"],
        "vector": ["a", "b", "e"],
        "line": ["a", "b", "c", "d", "e"],
    }
    status = read_status(database, job.id)
    assert (status.state, status.failed, status.pending) == ("done", 0, 0)
    assert list(failures(database, job.id)) == []
    counts = count_flags(database, job.id)
    assert [counts[step.name].not_selected for step in STEPS] == [2, 0, 0]
    views.make(database, "press", "books", STEPS)
    with database.read() as transaction:
        query = sql("SELECT id, english_status, line_status FROM pipeline_press ORDER BY id")
        rows = [tuple(row) for row in transaction.execute(query)]
    assert rows[2:4] == [("c", None, "done"), ("d", None, "done")]


def test_a_done_job_stays_done_when_its_source_is_read_again_and_brings_nothing(database: Database) -> None:
    job_request = replace(pipeline(steps=STEPS), key=IdempotencyKey("press", {}))
    job = read_into(database, job_request, TEXTS)
    finish(database, Flagger(database, doubtful="").outcomes)
    before = read_status(database, job.id)
    again = read_into(database, job_request, TEXTS)
    assert (again.id, again.adopted) == (job.id, True)
    after = read_status(database, job.id)
    assert (before.state, after.state) == ("done", "done")
    assert (after.done, after.documents) == (before.done, before.documents)
    assert jobs.finish(database) == []


def test_a_done_job_that_is_read_again_computes_the_documents_that_become_first(database: Database) -> None:
    job_request = replace(pipeline(steps=STEPS[:1]), key=IdempotencyKey("press", {}))
    job = read_into(database, job_request, TEXTS)
    finish(database, Flagger(database, doubtful="").outcomes)
    read(database, JobRequest("books", "other", pipeline(steps=STEPS[2:]).steps), [("a", "a new text")])
    read_into(database, job_request, TEXTS[1:])
    assert read_status(database, job.id).state == "running"
    flagger = Flagger(database, doubtful="")
    work(database, flagger.outcomes)
    assert flagger.texts_of("translate") == {f"{BASE} fifteen", "a new text"}
    assert jobs.finish(database) != []
    assert read_status(database, job.id).state == "done"


def test_when_the_first_has_another_text_the_next_one_is_read(database: Database) -> None:
    flagger = Flagger(database, doubtful="")
    job_request = pipeline(steps=STEPS[:1])
    read_into(database, job_request, TEXTS)
    finish(database, flagger.outcomes)
    flagger.computed.clear()
    job = read_into(database, job_request, [("a", "changed"), *TEXTS[1:]])
    work(database, flagger.outcomes)
    assert {text for _, text in flagger.computed} == {"changed", f"{BASE} fifteen"}
    assert list_computed(database, job, "english") == ["a", "b", "c", "e"]


def test_documents_of_other_readings_are_read_too_and_a_reading_that_was_cut_off_is_carried_on(
    database: Database,
) -> None:
    read(database, request(corpus="books"), TEXTS[:3])
    job_request = pipeline("b", STEPS[:1])
    job = jobs.open_job(database, job_request)
    ingest.add(database, job, chunks(TEXTS, 9)[0])

    class Killed(Exception):
        pass

    def killed() -> None:
        raise Killed

    with pytest.raises(Killed):
        ingest.end(database, job, update_filters=killed)
    assert read_status(database, job.id).texts == 0
    again = read_into(database, job_request, TEXTS)
    assert again.id == job.id
    work(database)
    assert list_computed(database, job, "english") == ["a", "b", "e"]


def test_a_search_finds_first_documents_only_and_flags_are_asked_for(database: Database) -> None:
    job = read_into(database, pipeline(steps=(StepRequest("vector", EMBED, leaves_out=KIND),)), TEXTS)
    work(database, embedded)
    searched = choose(database, ["books"])
    assert len(search(database, searched, np.ones((1, 1), np.float32), 9).ids[0]) == 3
    assert list(results(database, job.id, flagged=Flagged())) == []
    assert len(list(results(database, job.id, flagged=Flagged(lacking=True)))) == 3
