"""Results by age: those that a job, a corpus, a pipeline or a migration needs stay."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from sqlalchemy import insert, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import (
    OutcomeRow,
    ReplacementRow,
    SpecRow,
    db_now,
)
from docmill.storage.core.specs import Spec
from docmill.storage.deletion import gc, needed, retention
from docmill.storage.deletion.paging import Removed
from docmill.storage.pipelines import pipelines
from docmill.storage.steps import jobs
from docmill.storage.steps.jobs import JobRequest
from docmill.storage.steps.steps import StepRequest
from tests.storage.aging import DAY_S, days_pass
from tests.storage.builders import assert_status, numbered, read
from tests.storage.steps.test_steps import Fleet

LIMIT_DAYS = 25.0  # the steps of time below never end on it
LIMIT_S = LIMIT_DAYS * DAY_S


def spec(kind: str = "translate", model: str = "m1", **params: Any) -> Spec:
    return Spec(kind, model, "sha256:1", params=params)


def asked(*specs: Spec, corpus: str = "books") -> JobRequest:
    """Return a job whose steps read one another's outputs."""
    steps = [
        StepRequest(f"s{n}", one, f"s{n - 1}" if n and specs[n - 1].kind != "embed" else None)
        for n, one in enumerate(specs)
    ]
    return JobRequest(corpus, "a.jsonl", tuple(steps))


def run(database: Database, request: JobRequest) -> int:
    return Fleet(database).done(request, numbered(3)).id


def stored(database: Database) -> Counter[str]:
    """Count the results of each model."""
    return Counter(database.values(select(SpecRow.model).join(OutcomeRow, OutcomeRow.spec_id == SpecRow.id)))


def spec_id(database: Database, model: str) -> int:
    [found] = database.values(select(SpecRow.id).where(SpecRow.model == model))
    return found


def test_results_of_a_model_that_another_replaced_go_and_the_status_names_the_rule(database: Database) -> None:
    old = run(database, asked(spec(model="m1")))
    run(database, asked(spec(model="m2")))
    assert needed.drop_unneeded(database, LIMIT_S) == Removed(), "both jobs ended just now"
    days_pass(database, 30)
    assert needed.drop_unneeded(database, LIMIT_S).outcomes == 3
    assert stored(database) == {"m2": 3}
    assert_status(database, old, lost=3, swept=("results",))
    assert run(database, asked(spec(model="m1"))) > old
    assert stored(database) == {"m1": 3, "m2": 3}, "they are computed again when a job needs them"


def test_results_that_another_job_takes_over_before_they_go_stay(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(database, asked(spec(model="m1")))
    run(database, asked(spec(model="m2")))
    days_pass(database, 30)
    find_old = gc._find_old

    def run_before(*arguments: Any) -> Any:
        run(database, asked(spec(model="m1")))
        return find_old(*arguments)

    monkeypatch.setattr(gc, "_find_old", run_before)
    assert needed.drop_unneeded(database, LIMIT_S) == Removed()


def test_the_latest_job_of_each_task_and_choice_of_options_keeps_its_results(database: Database) -> None:
    run(database, asked(spec("embed", "vectors")))
    run(database, asked(spec("translate", "to-english", to="en")))
    run(database, asked(spec("translate", "to-german", to="de")))
    run(database, asked(spec("translate", "elsewhere", to="en"), corpus="others"))
    days_pass(database, 1_000)
    assert needed.drop_unneeded(database, LIMIT_S) == Removed()


def test_a_job_that_was_cancelled_takes_the_place_of_none(database: Database) -> None:
    run(database, asked(spec(model="m1")))
    tried = read(database, asked(spec(model="m2")), numbered(3))
    jobs.cancel(database, tried.id)
    days_pass(database, 30)
    assert needed.drop_unneeded(database, LIMIT_S) == Removed()
    assert stored(database) == {"m1": 3}


def test_a_step_that_a_needed_step_reads_stays_with_it(database: Database) -> None:
    run(database, asked(spec("translate", "first"), spec("summarize", "second")))
    run(database, asked(spec("translate", "another")))
    days_pass(database, 30)
    assert needed.drop_unneeded(database, LIMIT_S) == Removed(), "summaries are the latest of their kind"
    run(database, asked(spec("summarize", "direct")))
    assert needed.drop_unneeded(database, LIMIT_S).outcomes == 6
    assert stored(database) == {"another": 3, "direct": 3}


def test_what_a_pipeline_ran_last_stays(database: Database) -> None:
    pipelines.put(database, "nightly", "/x", "", {"cron": "0 0 * * *", "timezone": "UTC", "overlap": "skip"})
    run_id = pipelines.fire(database, pipelines.scheduled(database)[0], 1.0)
    taken = pipelines.take(database, run_id or 0, "w1", 60.0)
    assert taken is not None
    pipelines.note(database, taken, "done", job_id=run(database, asked(spec(model="nightly"))))
    run(database, asked(spec(model="by-hand")))
    days_pass(database, 30)
    assert needed.drop_unneeded(database, LIMIT_S) == Removed()
    pipelines.remove(database, "nightly")
    assert needed.drop_unneeded(database, LIMIT_S).outcomes == 3


def test_a_migration_needs_both_models_until_it_cannot_be_undone_and_then_the_one_that_answers(
    database: Database,
) -> None:
    states = ("filling", "switched", "dropped", "cancelled", "undone")
    for number, state in enumerate(states, 1):
        for model in (f"before {state}", f"after {state}"):
            run(database, asked(spec(model=model)))
        specs = {"old_spec_id": spec_id(database, f"before {state}"), "new_spec_id": spec_id(database, model)}
        values = {"id": number, "corpus_id": 1, "old_job_id": 1, **specs, "state": state}
        made = insert(ReplacementRow).values(**values, created_at=db_now(), ended_at=db_now())
        database.execute(made)
    run(database, asked(spec(model="last")))
    days_pass(database, 30)
    needed.drop_unneeded(database, LIMIT_S)
    of_undoable = {f"{when} {state}" for when in ("before", "after") for state in ("filling", "switched")}
    of_ended = {"after dropped", "before cancelled", "before undone"}
    assert stored(database).keys() == {"last", *of_undoable, *of_ended}


def test_a_rule_without_an_age_removes_nothing(database: Database) -> None:
    run(database, asked(spec(model="m1")))
    run(database, asked(spec(model="m2")))
    days_pass(database, 1_000)
    removed, _ = retention.apply(database, {"shards": LIMIT_S})
    assert removed.keys() == {"shards", "texts"}
    assert stored(database) == {"m1": 3, "m2": 3}
