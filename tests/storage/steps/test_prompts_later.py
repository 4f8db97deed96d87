"""Templates over metadata in a later step: the document or its text plans the prompt, whichever comes last."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Content, Document, Prompt, Step
from docmill.storage.core.specs import Spec
from docmill.storage.deletion import gc, removal
from docmill.storage.ingest import ingest
from docmill.storage.pipelines import views
from docmill.storage.results.parts import fingerprints
from docmill.storage.results.results import failures, results
from docmill.storage.search.search import choose, search
from docmill.storage.steps import jobs, lineage
from docmill.storage.steps.jobs import OpenJob
from docmill.storage.steps.propagation import Traversal
from docmill.storage.steps.steps import StepRequest
from tests.storage.builders import EMBED, TRANSLATE, at_once, count_rows, make_chunk, read_view
from tests.storage.fleet import SUMMARIZE, Fleet, finish_job
from tests.storage.steps.test_prompts import NEWS, PROMPTED, News, read_news, request_news
from tests.worker.harness import DEADLINE_S

AGAIN = Spec("generate", "writer", "sha256:4", params={"prompt": "{text} ({meta.title})"})
STEPS = (
    StepRequest("english", TRANSLATE),
    StepRequest("prompted", PROMPTED, "english"),
    StepRequest("again", AGAIN, "prompted"),
    StepRequest("vector", EMBED, "again"),
)


def read_texts(database: Database, job: OpenJob, step: str = "prompted") -> dict[str, str]:
    """Return the output of a step for each document."""
    return {row["id"]: row["text"] for row in results(database, job.id, step=step)}


def expected(news: Sequence[News]) -> dict[str, str]:
    """Return the outputs of the step `again` for documents that have a text, as `Fleet` computes them."""
    titles = [meta.get("title", "") for _, _, meta in news]
    return {
        key: f"generate(generate({title}: translate({text})) ({title}))"
        for title, (key, text, _) in zip(titles, news, strict=True)
    }


WITH_TEXT = [record for record in NEWS if record[1].strip()]


@pytest.mark.parametrize(("chunk", "eager"), [(1, True), (2, False), (2, True), (100, False)])
def test_each_document_has_its_own_prompt_around_the_text_that_it_shares(
    database: Database, fleet: Fleet, chunk: int, eager: bool
) -> None:
    """If `eager`, the fleet works between the chunks, so that some texts come before a document and some after it."""
    job = jobs.open_job(database, request_news(steps=STEPS))
    for first in range(0, len(WITH_TEXT), chunk):
        part = [(*record, (), first + n) for n, record in enumerate(WITH_TEXT[first : first + chunk])]
        ingest.add(database, job, make_chunk(*part))
        if eager:
            fleet.work()
    ingest.end(database, job)
    fleet.end(job)
    assert read_texts(database, job, "again") == expected(WITH_TEXT)
    assert fleet.computed["translate", "Rain."] == 1
    assert fleet.computed["generate", "Weather: translate(Rain.)"] == 1, "a and e have one prompt"
    assert set(fleet.computed.values()) == {1}


def test_a_failure_of_an_earlier_step_blocks_the_prompt_until_a_retry(database: Database, fleet: Fleet) -> None:
    fleet.fails = lambda kind, text: kind == "translate" and "Rain" in text
    job = read_news(database, request_news(steps=STEPS), WITH_TEXT)
    fleet.end(job)
    assert set(read_texts(database, job)) == {"c", "f"}
    lost = {(row["id"], row["step"]): (row["status"], row["reason"]) for row in failures(database, job.id)}
    assert lost["a", "prompted"] == lost["a", "vector"] == ("blocked", "english failed: it would not")
    fleet.fails = lambda kind, text: False
    assert jobs.retry(database, job.id) == 1
    fleet.work()
    assert read_texts(database, job, "again") == expected(WITH_TEXT)
    assert {name: mark["done"] for name, mark in fingerprints(database, job.id).items()} == dict.fromkeys(
        ("english", "prompted", "again", "vector"), len(WITH_TEXT)
    )


def test_one_template_over_two_texts_of_a_document_gives_two_prompts(database: Database, fleet: Fleet) -> None:
    over_english = read_news(database, request_news(steps=STEPS[:2]), WITH_TEXT)
    fleet.work()
    short = (StepRequest("short", SUMMARIZE), StepRequest("prompted", PROMPTED, "short"))
    over_short = read_news(database, request_news(steps=short), WITH_TEXT)
    fleet.work()
    over_own = read_news(database, request_news(steps=(StepRequest("prompted", PROMPTED),)), WITH_TEXT)
    fleet.work()
    for job, text in ((over_english, "translate(Rain.)"), (over_short, "summarize(Rain.)"), (over_own, "Rain.")):
        finish_job(database, job)
        assert read_texts(database, job)["b"] == f"generate(Sports: {text})"
        assert len(read_texts(database, job)) == fingerprints(database, job.id)["prompted"]["done"] == len(WITH_TEXT)


def test_a_search_and_the_view_and_a_trace_follow_the_prompts(database: Database, fleet: Fleet) -> None:
    job = read_news(database, request_news(steps=STEPS), WITH_TEXT)
    fleet.end(job)
    best = search(database, choose(database, ["news"]), np.ones((1, 1), np.float32), 10)
    assert len([number for number in best.ids[0] if number >= 0]) == len(WITH_TEXT)
    views.make(database, "p", "news", STEPS)
    rows = read_view(database, "pipeline_p")
    assert {row["id"]: row["again"] for row in rows} == expected(WITH_TEXT)
    assert {row["vector_status"] for row in rows} == {"done"}
    assert removal.trace(database, "Sports: translate(Rain.)").documents == (("news", "b"),)


def test_removed_documents_lose_their_prompts_and_dropped_prompts_come_back(database: Database, fleet: Fleet) -> None:
    job = read_news(database, request_news(steps=STEPS), WITH_TEXT)
    fleet.end(job)
    n_prompts = count_rows(database, Prompt)
    assert gc.collect(database).contents == 0
    removal.remove_documents(database, "news", ["b"])
    removal.settle(database)
    for text in ("Sports: translate(Rain.)", "generate(Sports: translate(Rain.))"):
        assert removal.trace(database, text).is_nowhere
    assert removal.trace(database, "Weather: translate(Rain.)").stored
    assert count_rows(database, Prompt) == n_prompts - 2
    [english] = database.values(select(func.min(Step.spec_id)).where(Step.seq == 0))
    gc.drop(database, spec_ids=[english])
    assert count_rows(database, Prompt) == 0, "nothing referred to their texts, so they were deleted, too"
    assert not removal.trace(database, "generate(Weather: translate(Rain.))").stored
    again = read_news(database, request_news("b.jsonl", STEPS), WITH_TEXT)
    fleet.end(again)
    assert read_texts(database, again, "again") == expected(WITH_TEXT)
    removal.remove_corpus(database, "news")
    assert (count_rows(database, Prompt), count_rows(database, Content)) == (0, 0)


def test_a_document_and_the_text_that_it_waits_for_never_miss_each_other(
    database: Database, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text is committed while a document of the same text is stored, and neither transaction sees the other."""
    job = jobs.open_job(database, request_news(steps=STEPS[:2]))
    ingest.add(database, job, make_chunk(("a", "Rain.", {"title": "One"}, (), 0)))
    stored, looked = Event(), Event()
    plan_prompts, find_documents = Traversal.plan_prompts, lineage.find_documents

    def plan_slowly(*arguments: Any) -> Any:
        planned = plan_prompts(*arguments)
        stored.set()
        looked.wait(1)  # in vain: the commit waits for this transaction
        return planned

    def look(*arguments: Any) -> dict[int, int]:
        ids = find_documents(*arguments)
        looked.set()
        return ids

    monkeypatch.setattr(Traversal, "plan_prompts", plan_slowly)
    monkeypatch.setattr(lineage, "find_documents", look)

    def commit() -> None:
        assert stored.wait(DEADLINE_S)
        fleet.work()

    at_once(lambda: ingest.add(database, job, make_chunk(("b", "Rain.", {"title": "Two"}, (), 1))), commit)
    ingest.end(database, job)
    fleet.end(job)
    assert read_texts(database, job) == {
        "a": "generate(One: translate(Rain.))",
        "b": "generate(Two: translate(Rain.))",
    }


def test_the_older_of_two_records_gets_its_prompt_once_the_newer_is_gone_from_the_source(
    database: Database, fleet: Fleet
) -> None:
    older: News = ("a", "Rain.", {"title": "X"})
    newer: News = ("a", "Snow.", {"title": "X"})
    read_news(database, request_news(steps=STEPS[:3]), [older, newer], chunk=1)
    fleet.finish()
    job = read_news(database, request_news(steps=STEPS[:3]), [older])
    fleet.end(job)
    assert read_texts(database, job, "again") == expected([older])


def test_new_metadata_in_a_second_reading_before_the_job_has_ended_is_a_new_prompt(
    database: Database, fleet: Fleet
) -> None:
    job = read_news(database, request_news(steps=STEPS[:3]), [("a", "Rain.", {"title": "X"})])
    again = jobs.open_job(database, request_news(steps=STEPS[:3]))
    assert again.id == job.id
    ingest.add(database, again, make_chunk(("a", "Rain.", {"title": "Y"}, (), 1)))
    fleet.work()
    ingest.end(database, again)
    fleet.end(job)
    assert read_texts(database, job, "again") == expected([("a", "Rain.", {"title": "Y"})])


RECORDS = st.tuples(st.sampled_from("abcde"), st.sampled_from(["Rain.", "Snow.", "Hail."]), st.sampled_from("XYZ"))
MOVES: st.SearchStrategy[Any] = st.one_of(
    st.tuples(st.just("add"), st.sampled_from("pq"), st.lists(RECORDS, min_size=1, max_size=4)),
    st.tuples(st.sampled_from(["work", "end", "drop"]), st.sampled_from("pq"), st.just([])),
)


@pytest.mark.long
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=st.lists(MOVES, max_size=14))
def test_every_document_of_a_job_gets_its_result_in_any_order_of_moves(
    database: Database, moves: list[tuple[str, str, list[tuple[str, str, str]]]]
) -> None:
    fleet = Fleet(database)
    if count_rows(database, Document):
        removal.remove_corpus(database, "news")
    seq = 0
    opened: dict[str, OpenJob] = {}
    for move, source, records in moves:
        if move == "add":
            job = opened.setdefault(source, jobs.open_job(database, request_news(source, STEPS[:3])))
            rows = [(key, text, {"title": title}, (), seq + n) for n, (key, text, title) in enumerate(records)]
            seq += len(rows)
            ingest.add(database, job, make_chunk(*rows))
        elif move == "work":
            fleet.work()
        elif move == "drop":
            gc.drop(database)
        elif source in opened:
            ingest.end(database, opened.pop(source))
    for job in opened.values():
        ingest.end(database, job)
    fleet.work()
    for job in opened.values():
        finish_job(database, job)
        with database.read() as transaction:
            condition = lineage.visible(jobs.require(database, job.id))
            query = select(Document.key, Content.text, Document.meta).join(Content, Content.id == Document.content_id)
            documents = [(row.key, row.text, row.meta) for row in transaction.execute(query.where(condition))]
        assert read_texts(database, job, "again") == expected(documents)
    if count_rows(database, Document):
        jobs.finish(database)
