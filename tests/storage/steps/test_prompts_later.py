"""Templates over metadata in a step that reads another's text: whichever comes last, document or text, plans it."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
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
from docmill.storage.steps.jobs import JobRequest, OpenJob
from docmill.storage.steps.propagation import Traversal
from docmill.storage.steps.steps import StepRequest
from tests.storage.builders import EMBED, TRANSLATE, at_once, count_rows, gathered
from tests.storage.steps.test_prompts import NEWS, TOLD, News, take
from tests.storage.steps.test_steps import SUMMARIZE, Fleet, finished
from tests.worker.harness import DEADLINE_S

AGAIN = Spec("generate", "writer", "sha256:4", params={"prompt": "{text} ({meta.title})"})
STEPS = (
    StepRequest("english", TRANSLATE),
    StepRequest("told", TOLD, "english"),
    StepRequest("again", AGAIN, "told"),
    StepRequest("vector", EMBED, "again"),
)


def asked(source: str = "a.jsonl", steps: Sequence[StepRequest] = STEPS) -> JobRequest:
    return JobRequest(corpus="news", source=source, steps=tuple(steps))


def of(database: Database, job: OpenJob, step: str = "told") -> dict[str, str]:
    return {row["id"]: row["text"] for row in results(database, job.id, step=step)}


def expected(news: Sequence[News]) -> dict[str, str]:
    """Return the outputs of the steps for documents that have a text, as `Fleet` computes them."""
    made = {}
    for key, text, meta in news:
        title = meta.get("title", "")
        made[key] = f"generate(generate({title}: translate({text})) ({title}))"
    return made


WITH_TEXT = [one for one in NEWS if one[1].strip()]


@pytest.mark.parametrize(("chunk", "eager"), [(1, True), (2, False), (2, True), (100, False)])
def test_each_document_has_its_own_prompt_around_the_text_that_it_shares(
    database: Database, fleet: Fleet, chunk: int, eager: bool
) -> None:
    """`eager` works between the chunks: then some texts are there before a document, and some after it."""
    job = jobs.open_job(database, asked())
    for first in range(0, len(WITH_TEXT), chunk):
        part = [(*one, (), first + n) for n, one in enumerate(WITH_TEXT[first : first + chunk])]
        ingest.add(database, job, gathered(*part))
        if eager:
            fleet.work()
    ingest.end(database, job)
    fleet.end(job)
    assert of(database, job, "again") == expected(WITH_TEXT)
    assert fleet.computed["translate", "Rain."] == 1
    assert fleet.computed["generate", "Weather: translate(Rain.)"] == 1, "a and e have one prompt"
    assert set(fleet.computed.values()) == {1}


def test_what_an_earlier_step_lacks_blocks_it_and_a_retry_leads_on(database: Database, fleet: Fleet) -> None:
    fleet.fails = lambda kind, text: kind == "translate" and "Rain" in text
    job = take(database, asked(), WITH_TEXT)
    fleet.end(job)
    assert set(of(database, job)) == {"c", "f"}
    lost = {(row["id"], row["step"]): (row["status"], row["reason"]) for row in failures(database, job.id)}
    assert lost["a", "told"] == lost["a", "vector"] == ("blocked", "english failed: it would not")
    fleet.fails = lambda kind, text: False
    assert jobs.retry(database, job.id) == 1
    fleet.work()
    assert of(database, job, "again") == expected(WITH_TEXT)
    assert {name: mark["done"] for name, mark in fingerprints(database, job.id).items()} == dict.fromkeys(
        ("english", "told", "again", "vector"), len(WITH_TEXT)
    )


def test_one_template_over_two_texts_of_a_document_gives_each_its_own(database: Database, fleet: Fleet) -> None:
    over_english = take(database, asked(steps=STEPS[:2]), WITH_TEXT)
    fleet.work()
    over_short = take(
        database,
        asked(steps=(StepRequest("short", SUMMARIZE), StepRequest("told", TOLD, "short"))),
        WITH_TEXT,
    )
    fleet.work()
    over_own = take(database, asked(steps=(StepRequest("told", TOLD),)), WITH_TEXT)
    fleet.work()
    for job, said in ((over_english, "translate(Rain.)"), (over_short, "summarize(Rain.)"), (over_own, "Rain.")):
        finished(database, job)
        assert of(database, job)["b"] == f"generate(Sports: {said})"
        assert len(of(database, job)) == fingerprints(database, job.id)["told"]["done"] == len(WITH_TEXT)


def test_a_search_the_view_and_a_trace_go_the_same_way(database: Database, fleet: Fleet) -> None:
    job = take(database, asked(), WITH_TEXT)
    fleet.end(job)
    found = search(database, choose(database, ["news"]), np.ones((1, 1), np.float32), 10)
    assert len([number for number in found.ids[0] if number >= 0]) == len(WITH_TEXT)
    views.make(database, "p", "news", STEPS)
    try:
        with database.read() as transaction:
            rows = transaction.exec_driver_sql("SELECT id, again, vector_status FROM pipeline_p").all()
    finally:
        views.drop(database, "p")
    assert {row[0]: row[1] for row in rows} == expected(WITH_TEXT)
    assert {row[2] for row in rows} == {"done"}
    assert removal.trace(database, "Sports: translate(Rain.)").documents == (("news", "b"),)


def test_what_is_removed_takes_its_prompts_along_and_what_is_dropped_comes_anew(
    database: Database, fleet: Fleet
) -> None:
    job = take(database, asked(), WITH_TEXT)
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
    assert count_rows(database, Prompt) == 0, "their texts went, which nothing led to any more"
    assert not removal.trace(database, "generate(Weather: translate(Rain.))").stored
    again = take(database, asked("b.jsonl"), WITH_TEXT)
    fleet.end(again)
    assert of(database, again, "again") == expected(WITH_TEXT)
    removal.remove_corpus(database, "news")
    assert (count_rows(database, Prompt), count_rows(database, Content)) == (0, 0)


def test_a_document_and_the_text_that_it_waits_for_miss_each_other_never(
    database: Database, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text is committed while a document of the same text is stored, and neither is there for the other yet."""
    job = jobs.open_job(database, asked(steps=STEPS[:2]))
    ingest.add(database, job, gathered(("a", "Rain.", {"title": "One"}, (), 0)))
    stored, looked = Event(), Event()
    plan_prompts, documents = Traversal.plan_prompts, lineage.find_documents

    def plan_slowly(*arguments: Any) -> Any:
        planned = plan_prompts(*arguments)
        stored.set()
        looked.wait(1)  # in vain: whoever commits waits in its turn
        return planned

    def look(*arguments: Any) -> dict[int, int]:
        found = documents(*arguments)
        looked.set()
        return found

    monkeypatch.setattr(Traversal, "plan_prompts", plan_slowly)
    monkeypatch.setattr(lineage, "find_documents", look)

    def commit() -> None:
        assert stored.wait(DEADLINE_S)
        fleet.work()

    at_once(lambda: ingest.add(database, job, gathered(("b", "Rain.", {"title": "Two"}, (), 1))), commit)
    ingest.end(database, job)
    fleet.end(job)
    assert of(database, job) == {
        "a": "generate(One: translate(Rain.))",
        "b": "generate(Two: translate(Rain.))",
    }


RECORDS = st.tuples(st.sampled_from("abcde"), st.sampled_from(["Rain.", "Snow.", "Hail."]), st.sampled_from("XYZ"))
MOVES: st.SearchStrategy[Any] = st.one_of(
    st.tuples(st.just("add"), st.sampled_from("pq"), st.lists(RECORDS, min_size=1, max_size=4)),
    st.tuples(st.sampled_from(["work", "end", "drop"]), st.sampled_from("pq"), st.just([])),
)


@pytest.mark.slow
@pytest.mark.long_on("postgresql")
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=st.lists(MOVES, max_size=14))
@example(  # read to its end, and read again before it has ended
    moves=[
        ("add", "p", [("a", "Rain.", "X")]),
        ("end", "p", []),
        ("add", "p", [("a", "Rain.", "Y")]),
        ("work", "p", []),
    ]
)
def test_whatever_the_order_every_document_of_a_job_gets_its_result(
    database: Database, moves: list[tuple[str, str, list[tuple[str, str, str]]]]
) -> None:
    fleet = Fleet(database)
    if count_rows(database, Document):
        removal.remove_corpus(database, "news")
    seq = 0
    opened: dict[str, OpenJob] = {}
    for move, source, read in moves:
        if move == "add":
            job = opened.setdefault(source, jobs.open_job(database, asked(source, STEPS[:3])))
            rows = [(key, text, {"title": title}, (), seq + n) for n, (key, text, title) in enumerate(read)]
            seq += len(rows)
            ingest.add(database, job, gathered(*rows))
        elif move == "work":
            fleet.work()
        elif move == "drop":
            gc.drop(database)
        elif source in opened:
            ingest.end(database, opened.pop(source))
    ended = [*opened.values()]
    for job in ended:
        ingest.end(database, job)
    fleet.work()
    for job in ended:
        finished(database, job)
        with database.read() as transaction:
            condition = lineage.visible(jobs.require(database, job.id))
            query = select(Document.key, Content.text, Document.meta).join(Content, Content.id == Document.content_id)
            documents = [(row.key, row.text, row.meta) for row in transaction.execute(query.where(condition))]
        assert of(database, job, "again") == expected(documents)
    if count_rows(database, Document):
        jobs.finish(database)
