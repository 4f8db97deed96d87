"""Results are deleted by age, except those that a job, a corpus, a pipeline or a migration needs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from sqlalchemy import select, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import (
    OutcomeRow,
    ReplacementRow,
    SpecRow,
    db_now,
)
from docmill.storage.core.specs import Spec
from docmill.storage.deletion import gc, needed
from docmill.storage.deletion.paging import Removed
from docmill.storage.pipelines import pipelines
from docmill.storage.steps import jobs
from docmill.storage.steps.jobs import JobRequest
from docmill.storage.steps.steps import StepRequest
from tests.storage.aging import DAY_S, days_pass
from tests.storage.builders import assert_status, fire_run, keep_pipeline, migrate, numbered, read, request, take_run
from tests.storage.fleet import Fleet

LIMIT_DAYS = 25.0  # the steps of time below never end on it
LIMIT_S = LIMIT_DAYS * DAY_S


def spec(kind: str = "translate", model: str = "m1", **params: Any) -> Spec:
    return Spec(kind, model, "sha256:1", params=params)


def chain(*specs: Spec, corpus: str = "books") -> JobRequest:
    """Return a request for a job each of whose steps reads the output of the step before."""
    steps = [
        StepRequest(f"s{n}", spec, f"s{n - 1}" if n and specs[n - 1].kind != "embed" else None)
        for n, spec in enumerate(specs)
    ]
    return request(corpus=corpus, steps=steps)


def run(database: Database, *specs: Spec, corpus: str = "books") -> int:
    """Run a job of these steps over three texts. Return its number."""
    return Fleet(database).run_job(chain(*specs, corpus=corpus), numbered(3)).id


def count_results(database: Database) -> Counter[str]:
    """Count the results of each model."""
    return Counter(database.values(select(SpecRow.model).join(OutcomeRow, OutcomeRow.spec_id == SpecRow.id)))


def spec_id(database: Database, model: str) -> int:
    [number] = database.values(select(SpecRow.id).where(SpecRow.model == model))
    return number


def test_results_of_a_replaced_model_are_deleted_and_the_status_names_the_rule(database: Database) -> None:
    old = run(database, spec(model="m1"))
    run(database, spec(model="m2"))
    assert needed.drop_unneeded(database, LIMIT_S) == Removed(), "both jobs ended just now"
    days_pass(database, 30)
    assert needed.drop_unneeded(database, LIMIT_S).outcomes == 3
    assert count_results(database) == {"m2": 3}
    assert_status(database, old, lost=3, swept=("results",))
    assert run(database, spec(model="m1")) > old
    assert count_results(database) == {"m1": 3, "m2": 3}, "a job that needs them computes them again"


def test_results_that_another_job_takes_over_before_their_deletion_stay(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(database, spec(model="m1"))
    run(database, spec(model="m2"))
    days_pass(database, 30)
    find_old = gc._find_old

    def run_before(*arguments: Any) -> Any:
        run(database, spec(model="m1"))
        return find_old(*arguments)

    monkeypatch.setattr(gc, "_find_old", run_before)
    assert needed.drop_unneeded(database, LIMIT_S) == Removed()


def test_the_latest_job_of_each_task_and_options_keeps_its_results(database: Database) -> None:
    run(database, spec("embed", "vectors"))
    run(database, spec("translate", "to-english", to="en"))
    run(database, spec("translate", "to-german", to="de"))
    run(database, spec("translate", "elsewhere", to="en"), corpus="others")
    days_pass(database, 1_000)
    assert needed.drop_unneeded(database, LIMIT_S) == Removed()


def test_a_cancelled_job_replaces_no_other(database: Database) -> None:
    run(database, spec(model="m1"))
    tried = read(database, chain(spec(model="m2")), numbered(3))
    jobs.cancel(database, tried.id)
    days_pass(database, 30)
    assert needed.drop_unneeded(database, LIMIT_S) == Removed()
    assert count_results(database) == {"m1": 3}


def test_the_results_that_a_needed_step_reads_stay(database: Database) -> None:
    run(database, spec("translate", "first"), spec("summarize", "second"))
    run(database, spec("translate", "another"))
    days_pass(database, 30)
    assert needed.drop_unneeded(database, LIMIT_S) == Removed(), "summaries are the latest of their kind"
    run(database, spec("summarize", "direct"))
    assert needed.drop_unneeded(database, LIMIT_S).outcomes == 6
    assert count_results(database) == {"another": 3, "direct": 3}


def test_the_results_of_a_pipelines_last_run_stay(database: Database) -> None:
    keep_pipeline(database)
    scheduled = take_run(database, fire_run(database))
    pipelines.note(database, scheduled, "done", job_id=run(database, spec(model="nightly")))
    run(database, spec(model="by-hand"))
    days_pass(database, 30)
    assert needed.drop_unneeded(database, LIMIT_S) == Removed()
    pipelines.remove(database, "nightly")
    assert needed.drop_unneeded(database, LIMIT_S).outcomes == 3


def test_a_migration_needs_both_models_while_it_can_be_undone_and_then_only_the_current_one(
    database: Database,
) -> None:
    states = ("filling", "switched", "dropped", "cancelled", "undone")
    for state in states:
        old, new = (spec(model=f"{when} {state}") for when in ("before", "after"))
        run(database, old)
        run(database, new)
        this = update(ReplacementRow).where(ReplacementRow.id == migrate(database, 1, old, new))
        database.execute(this.values(state=state, ended_at=db_now()))
    run(database, spec(model="last"))
    days_pass(database, 30)
    needed.drop_unneeded(database, LIMIT_S)
    of_undoable = {f"{when} {state}" for when in ("before", "after") for state in ("filling", "switched")}
    of_ended = {"after dropped", "before cancelled", "before undone"}
    assert count_results(database).keys() == {"last", *of_undoable, *of_ended}
