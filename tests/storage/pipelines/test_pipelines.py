"""Stored pipelines, their runs, and the views of their results."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import update

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import insert_row
from docmill.storage.core.schema import Job, PipelineRow, PipelineRun, db_now
from docmill.storage.core.specs import Spec
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion import removal
from docmill.storage.errors import LeaseLost, NotFound
from docmill.storage.ingest import ingest
from docmill.storage.outputs.output_types import RECORD, TEXT
from docmill.storage.pipelines import pipelines, views
from docmill.storage.pipelines.pipelines import Run
from docmill.storage.results.results import failures, results
from docmill.storage.steps import jobs
from docmill.storage.steps.steps import StepRequest
from tests.storage.builders import (
    NIGHTLY,
    at_once,
    count_rows,
    fire_run,
    is_lock_awaited,
    keep_pipeline,
    numbered,
    read,
    read_view,
    records,
    request,
    take_run,
)
from tests.storage.fleet import STEPS, Fleet, pipeline
from tests.worker.harness import DEADLINE_S, until

QUEUED = {**NIGHTLY, "overlap": "queue"}
LEASE_S = 60.0


def set_runs(database: Database, **values: Any) -> None:
    """Set columns of all runs, such as their times."""
    database.execute(update(PipelineRun).values(**values))


def runs(database: Database) -> list[Any]:
    """Return the runs of the pipeline, the oldest first."""
    return list(reversed(pipelines.history(database, "nightly")))


def fire_new(database: Database) -> int:
    """Store a scheduled pipeline, and fire it. Return the number of the run."""
    keep_pipeline(database)
    return fire_run(database)


def try_take(database: Database, run_id: int, owner: str = "w1") -> Run | None:
    return pipelines.take(database, run_id, owner, LEASE_S)


def lapse(database: Database) -> None:
    """Let the leases of all runs lapse."""
    set_runs(database, lease_until=db_now() - 1.0)


def begin(database: Database) -> Run:
    """Begin a run by hand."""
    return pipelines.begin(database, "nightly", "me", LEASE_S)


def test_a_pipeline_is_kept_listed_replaced_and_forgotten(database: Database) -> None:
    keep_pipeline(database)
    pipelines.put(database, "nightly", "/y/nightly.toml", "name = 'other'", NIGHTLY)
    keep_pipeline(database, None, "by_hand")
    assert [(row.name, row.path, run) for row, run in pipelines.every(database)] == [
        ("by_hand", "/x/nightly.toml", None),
        ("nightly", "/y/nightly.toml", None),
    ]
    assert pipelines.get(database, "nightly").text == "name = 'other'"
    pipelines.remove(database, "nightly")
    for act in (pipelines.get, pipelines.history, pipelines.remove):
        with pytest.raises(NotFound, match="no pipeline nightly"):
            act(database, "nightly")


def test_a_new_schedule_counts_from_now_and_the_same_one_from_where_it_was(database: Database) -> None:
    keep_pipeline(database)
    database.execute(update(PipelineRow).values(looked_at=5.0))
    assert keep_pipeline(database).looked_at == 5.0
    nightly = keep_pipeline(database, QUEUED)
    assert nightly.looked_at == pytest.approx(nightly.now, abs=60)


def test_schedulers_that_fire_at_once_make_one_run(database: Database) -> None:
    nightly = keep_pipeline(database)
    run_ids = at_once(*[lambda: pipelines.fire(database, nightly, 100.0)] * 4)
    assert len([run_id for run_id in run_ids if run_id is not None]) == 1
    assert [(run.state, run.due_at) for run in runs(database)] == [("due", 100.0)]


def test_a_time_has_one_run_even_if_the_clock_was_put_back(database: Database) -> None:
    nightly = keep_pipeline(database)
    first = pipelines.fire(database, nightly, 100.0)
    pipelines.note(database, runs(database)[0], "done")
    database.execute(update(PipelineRow).values(looked_at=nightly.looked_at))
    assert pipelines.fire(database, nightly, 100.0) is None
    assert [run.id for run in runs(database)] == [first]


def test_a_run_that_is_due_while_the_last_one_is_running_is_skipped_with_the_reason(database: Database) -> None:
    pipelines.fire(database, keep_pipeline(database), 100.0)
    pipelines.fire(database, keep_pipeline(database), 200.0)
    first, second = runs(database)
    assert (second.state, second.reason) == ("skipped", f"run {first.id} had not ended")
    [(_, last)] = pipelines.every(database)
    assert getattr(last, "id", None) == first.id, "the run that goes on is listed as the last one"
    pipelines.note(database, first, "done")
    pipelines.fire(database, keep_pipeline(database), 300.0)
    assert runs(database)[-1].state == "due"


def test_a_queued_run_is_handed_out_when_the_run_before_it_has_ended(database: Database) -> None:
    for due_at in (100.0, 200.0):
        pipelines.fire(database, keep_pipeline(database, QUEUED), due_at)
    first, second = runs(database)
    assert pipelines.hand_out(database) == [first.id]
    assert pipelines.hand_out(database) == [], "the message is believed to have arrived"
    pipelines.note(database, first, "failed", reason="it would not")
    assert pipelines.hand_out(database) == [second.id]


def test_a_run_keeps_the_file_that_it_was_started_with(database: Database) -> None:
    run_id = fire_new(database)
    first = take_run(database, run_id)
    assert pipelines.file_of(database, first) == ("/x/nightly.toml", "name = 'nightly'")
    pipelines.put(database, "nightly", "/y/nightly.toml", "name = 'other'", QUEUED)
    lapse(database)
    second = take_run(database, run_id, "w2")
    assert pipelines.file_of(database, second) == ("/x/nightly.toml", "name = 'nightly'")
    later = pipelines.fire(database, pipelines.scheduled(database)[0], 200.0)
    assert later is not None
    pipelines.note(database, second, "done")
    third = take_run(database, later)
    assert pipelines.file_of(database, third) == ("/y/nightly.toml", "name = 'other'")
    pipelines.remove(database, "nightly")
    with pytest.raises(LeaseLost):
        pipelines.file_of(database, third)
    assert pipelines.renew(database, third, LEASE_S), "its reader goes on with its job"
    assert not pipelines.note(database, third, "running", job_id=None)


def test_a_reading_whose_lease_lapsed_is_renewed_until_another_takes_it_up(database: Database) -> None:
    run_id = fire_new(database)
    first = take_run(database, run_id)
    assert try_take(database, run_id, "w2") is None
    set_runs(database, handed_at=None)
    assert pipelines.hand_out(database) == []
    lapse(database)
    assert pipelines.renew(database, first, LEASE_S), "no other worker has taken it"
    assert try_take(database, run_id, "w2") is None
    lapse(database)
    assert pipelines.hand_out(database) == [run_id]
    second = take_run(database, run_id, "w2")
    assert (second.state, second.fence) == ("reading", first.fence + 1)
    assert not pipelines.renew(database, first, LEASE_S)
    assert not pipelines.note(database, first, "failed"), "a worker that lost the run cannot change it"
    for is_urgent in (True, False):
        pipelines.let_go(database, first, at_once=is_urgent)
        assert pipelines.hand_out(database) == []
    assert try_take(database, run_id, "w3") is None, "the other worker keeps its lease"
    assert pipelines.note(database, second, "done")


@pytest.mark.both_stores
def test_one_of_several_workers_gets_a_run(database: Database) -> None:
    run_id = fire_new(database)
    runs = at_once(*[lambda: try_take(database, run_id)] * 4)
    assert sorted(run is None for run in runs) == [False, True, True, True]


def test_a_released_lease_is_free_at_once(database: Database) -> None:
    run_id = fire_new(database)
    for is_urgent, handed_out in ((False, []), (True, [run_id])):
        pipelines.let_go(database, take_run(database, run_id), at_once=is_urgent)
        assert pipelines.hand_out(database) == handed_out
    take_run(database, run_id, "w2")
    pipelines.let_go_all(database, "w1")
    assert try_take(database, run_id, "w3") is None, "w1 no longer has the lease"
    pipelines.let_go_all(database, "w2")
    assert pipelines.hand_out(database) == [run_id]
    last = take_run(database, run_id, "w3")
    assert pipelines.note(database, last, "done")
    assert not pipelines.renew(database, last, LEASE_S), "an ended run is not renewed"


def test_a_run_is_handed_out_once_more_when_its_job_has_ended(database: Database) -> None:
    run_id = fire_new(database)
    job = read(database, pipeline(), numbered(3))
    pipelines.note(database, take_run(database, run_id), "running", job_id=job.id)
    assert (pipelines.hand_out(database), try_take(database, run_id)) == ([], None), "its job is unfinished"
    database.execute(update(Job).values(state="done"))
    assert pipelines.hand_out(database) == [run_id]
    run = take_run(database, run_id)
    assert (run.state, run.job_id) == ("running", job.id)
    pipelines.note(database, run, "done")
    assert try_take(database, run_id) is None
    assert not pipelines.note(database, run, "failed"), "an ended run stays ended"


def test_a_source_is_read_again_if_a_delayed_reader_reopened_the_job(database: Database) -> None:
    run_id = fire_new(database)
    take_run(database, run_id, "w1")
    late = jobs.open_job(database, pipeline())
    lapse(database)
    job = read(database, pipeline(), numbered(3))
    assert job.id == late.id
    pipelines.note(database, take_run(database, run_id, "w2"), "running", job_id=job.id)
    ingest.add(database, late, records(numbered(1, 3), 3))
    assert pipelines.hand_out(database) == [run_id]
    run = take_run(database, run_id, "w3")
    assert (run.state, run.job_id) == ("reading", job.id)


def test_a_run_is_not_handed_out_again_while_earlier_messages_wait(database: Database) -> None:
    run_id = fire_new(database)
    assert pipelines.hand_out(database, again=False) == [run_id]
    set_runs(database, handed_at=db_now() - 2 * pipelines.HAND_AGAIN_S)
    assert pipelines.hand_out(database, again=False) == []
    assert pipelines.hand_out(database) == [run_id]


def test_a_pipeline_is_removed_with_a_run_that_is_fired_meanwhile(postgres: Database) -> None:
    pipeline_id, inside = keep_pipeline(postgres).id, threading.Event()

    def fire(transaction: Transaction) -> None:
        insert_row(transaction, PipelineRun, pipeline_id=pipeline_id, state="due", created_at=0.0)
        inside.set()
        until(lambda: is_lock_awaited(postgres), "the removal waits")

    def remove() -> None:
        assert inside.wait(DEADLINE_S)
        pipelines.remove(postgres, "nightly")

    at_once(lambda: postgres.write(fire), remove)
    assert count_rows(postgres, PipelineRun) == 0


@pytest.mark.parametrize("again", [lambda database: begin(database).id, fire_new], ids=["by hand", "scheduled"])
def test_the_number_of_a_removed_run_is_not_used_again(database: Database, again: Callable[[Database], int]) -> None:
    keep_pipeline(database)
    removed = begin(database)
    pipelines.remove(database, "nightly")
    keep_pipeline(database)
    assert again(database) > removed.id


def test_a_run_by_hand_is_in_the_history_and_holds_no_other_run_back(database: Database) -> None:
    nightly = keep_pipeline(database)
    cut_off = begin(database)
    lapse(database)
    last, beside = begin(database), begin(database)
    assert pipelines.hand_out(database) == []
    pipelines.fire(database, nightly, 100.0)
    states = {run.id: (run.state, run.reason) for run in runs(database)}
    assert states[cut_off.id] == ("failed", "it was cut off")
    assert states[last.id] == states[beside.id] == ("reading", None), "a run in another terminal goes on"
    assert [run.state for run in runs(database)][-1] == "due"
    with pytest.raises(NotFound):
        pipelines.begin(database, "weekly", "me", LEASE_S)


def test_a_run_by_hand_that_was_only_suspended_records_its_own_end(database: Database) -> None:
    keep_pipeline(database)
    run = begin(database)
    lapse(database)
    assert pipelines.hand_out(database) == []
    assert [(row.state, row.reason) for row in runs(database)] == [("failed", "it was cut off")]
    assert pipelines.renew(database, run, LEASE_S)
    assert pipelines.note(database, run, "done")
    assert [(row.state, row.reason) for row in runs(database)] == [("done", None)]
    assert not pipelines.note(database, run, "failed")


def test_the_view_has_every_document_with_every_steps_result(database: Database, fleet: Fleet) -> None:
    fleet.fails = lambda kind, text: text in {"text 1", "translate(text 2)"}
    views.make(database, "nightly", "books", STEPS)
    job = read(database, pipeline(), numbered(4))
    assert {row["english_status"] for row in read_view(database, "pipeline_nightly")} == {None}
    fleet.end(job)
    rows = read_view(database, "pipeline_nightly")
    assert [row["id"] for row in rows] == ["k0", "k1", "k2", "k3"]
    whole = [line for line in results(database, job.id) if line["id"] in {"k0", "k3"}]
    for row, result in zip((rows[0], rows[3]), whole, strict=True):
        assert row["english"] == result["steps"]["english"]["text"]
        assert row["line"] == result["steps"]["line"]["text"]
        assert row["vector_vector"] == result["steps"]["vector"]["vector"].tobytes()
    not_done = {
        (row["id"], step): row[f"{step}_status"]
        for row in rows
        for step in ("english", "line", "vector", "original")
        if row[f"{step}_status"] != "done"
    }
    assert not_done == {(line["id"], line["step"]): line["status"] for line in failures(database, job.id)}


def test_the_view_follows_a_recreated_corpus_and_a_changed_pipeline(database: Database, fleet: Fleet) -> None:
    name = "100% o'clock, \\x %s"
    views.make(database, "Night-ly", name, STEPS[:2])
    for text in ("text 0", "news"):
        fleet.run_job(request(corpus=name, steps=STEPS[:2]), [("k0", text)])
        assert [row["english"] for row in read_view(database, "pipeline_night_ly")] == [f"translate({text})"]
    views.make(database, "Night-ly", name, [StepRequest("select", STEPS[0].spec)])
    assert [row["select"] for row in read_view(database, "pipeline_night_ly")] == ["translate(news)"]
    removal.remove_corpus(database, name)
    assert read_view(database, "pipeline_night_ly") == []
    fleet.run_job(request(corpus=name, steps=STEPS[:2]), [("k0", "olds")])  # the new corpus has another number
    assert [row["select"] for row in read_view(database, "pipeline_night_ly")] == ["translate(olds)"]
    views.drop(database, "Night-ly")
    views.drop(database, "Night-ly")


def contract(*fields: str) -> StepRequest:
    """Return a step whose record has these fields."""
    schema = json.dumps({"properties": {field: {"type": "string"} for field in fields}})
    return StepRequest("contract", Spec("extract", "m", "1", params={"json_schema": schema}))


LONG = "the_contracting_parties_and_all_of_their_representatives"  # PostgreSQL cuts off what follows


@pytest.mark.parametrize(
    ("step", "column"),
    [
        (contract(f"{LONG}_names", f"{LONG}_numbers"), f"contract_{LONG}_numbers"),
        (contract("\xe4", "\xc4"), None),  # SQLite ignores the case of ASCII letters only
    ],
)
def test_columns_clash_if_postgresql_cuts_them_to_the_same_name(step: StepRequest, column: str | None) -> None:
    assert views.clash([(step, RECORD)]) == (None if column is None else ("contract", "contract", column))


@pytest.mark.parametrize(("names", "owners"), [(("s", "S"), ("s", "S")), (("ID",), ("the documents", "ID"))])
def test_columns_clash_if_sqlite_takes_their_names_as_equal(names: Sequence[str], owners: tuple[str, str]) -> None:
    requests = [(StepRequest(name, STEPS[0].spec), TEXT) for name in names]
    assert views.clash(requests) == (*owners, owners[1])
