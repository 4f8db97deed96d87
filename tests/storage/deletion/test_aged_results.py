"""Results by age: those that a job, a corpus, a pipeline or a migration needs stay."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import SPEC, spec_of
from docmill.storage.core.schema import (
    Content,
    Corpus,
    Job,
    OutcomeRow,
    ReplacementRow,
    SpecRow,
    db_now,
)
from docmill.storage.core.specs import Outcome, Spec, Status
from docmill.storage.deletion import needed, removal, retention
from docmill.storage.deletion.needed import needed_by_migrations
from docmill.storage.deletion.paging import RemovalBudget, Removed
from docmill.storage.leases.shards import Claim
from docmill.storage.pipelines import pipelines
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs
from docmill.storage.steps.jobs import JobRequest
from docmill.storage.steps.steps import StepRequest
from tests.storage.aging import DAY_S, days_pass
from tests.storage.builders import Text, numbered, read, work

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


def outcome(of: Spec, content_id: int, text: str) -> Outcome:
    if of.kind == "embed":
        return Outcome(content_id, Status.DONE, vector=b"\0\0\x80?")
    return Outcome(content_id, Status.DONE, text=f"<{of.model} {text}>")


def spec_of_claim(database: Database, claim: Claim) -> Spec:
    with database.read() as transaction:
        return spec_of(transaction.execute(select(*SPEC).where(SpecRow.id == claim.spec_id)).one())


def run(database: Database, request: JobRequest, texts: list[Text] | None = None) -> int:
    job = read(database, request, numbered(3) if texts is None else texts)
    compute_all(database)
    jobs.finish(database, job.id)
    return job.id


def compute_all(database: Database) -> None:
    def outcomes(claim: Claim) -> list[Outcome]:
        of = spec_of_claim(database, claim)
        return [outcome(of, content_id, text) for content_id, text in claim.texts]

    work(database, outcomes)


def stored(database: Database) -> Counter[str]:
    """Count the results of each model."""
    with database.read() as transaction:
        query = select(SpecRow.model).join(OutcomeRow, OutcomeRow.spec_id == SpecRow.id)
        return Counter(transaction.scalars(query))


def spec_id(database: Database, model: str) -> int:
    with database.read() as transaction:
        return transaction.execute(select(SpecRow.id).where(SpecRow.model == model)).scalar_one()


def test_results_of_a_model_that_another_replaced_go_and_the_status_names_the_rule(database: Database) -> None:
    old = run(database, asked(spec(model="m1")))
    run(database, asked(spec(model="m2")))
    assert needed.drop_unneeded(database, LIMIT_S) == Removed(), "both jobs ended just now"
    days_pass(database, 30)
    assert needed.drop_unneeded(database, LIMIT_S).outcomes == 3
    assert stored(database) == {"m2": 3}
    status = read_status(database, old)
    assert (status.lost, status.swept) == (3, ("results",))
    assert run(database, asked(spec(model="m1"))) > old
    assert stored(database) == {"m1": 3, "m2": 3}, "they are computed again when a job needs them"


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


def test_results_of_migrations_stay(database: Database) -> None:
    for model in ("migrated", "dropped", "last"):
        run(database, asked(spec(model=model)))
    old, gone, new = (spec_id(database, model) for model in ("migrated", "dropped", "last"))
    for number, (before, state) in enumerate([(old, "switched"), (gone, "dropped")], 1):
        values = {"id": number, "corpus_id": 1, "old_spec_id": before, "new_spec_id": new, "old_job_id": 1}
        made = insert(ReplacementRow).values(**values, state=state, created_at=db_now(), ended_at=db_now())
        database.write(lambda transaction, made=made: transaction.execute(made))  # type: ignore[misc]
    days_pass(database, 30)
    needed.drop_unneeded(database, LIMIT_S)
    assert stored(database) == {"migrated": 3, "last": 3}


def test_a_migration_needs_both_models_until_it_cannot_be_undone_and_then_that_which_answers() -> None:
    states = [(1, 2, "filling"), (3, 4, "switched"), (5, 6, "dropped"), (7, 8, "cancelled"), (9, 10, "undone")]
    assert needed_by_migrations(states) == {1, 2, 3, 4, 6, 7, 9}


def empty(database: Database) -> None:
    """Remove the jobs and corpora of an example before."""
    with database.read() as transaction:
        unfinished = transaction.scalars(select(Job.id).where(Job.finished_at.is_(None))).all()
        corpora = transaction.scalars(select(Corpus.name)).all()
    for job_id in unfinished:
        jobs.cancel(database, job_id)
    for corpus in corpora:
        removal.remove_corpus(database, corpus)


CHOICES = {
    "one": [spec(model="m1")],
    "other": [spec(model="m2")],
    "vectors": [spec("embed", "m3")],
    "two": [spec(model="m1"), spec("summarize", "m4")],
    "short": [spec("summarize", "m5")],
}


@dataclass
class Made:
    """A job of the model: its steps, and the day on which it ended."""

    id: int
    corpus: str
    steps: list[Spec]
    ended: float | None


@dataclass
class Model:
    """An independent account of the jobs, the days on which results were stored, and how often each was computed."""

    database: Database
    day: float = 0.0
    made: list[Made] = field(default_factory=list)
    born: dict[tuple[str, str], float] = field(default_factory=dict)
    times: Counter[tuple[str, str]] = field(default_factory=Counter)
    removed: Counter[tuple[str, str]] = field(default_factory=Counter)

    def rows(self) -> set[tuple[str, str]]:
        """Return the (model, text) of each stored result."""
        query = select(SpecRow.model, Content.text).join(OutcomeRow, OutcomeRow.spec_id == SpecRow.id)
        with self.database.read() as transaction:
            return {
                (row.model, row.text)
                for row in transaction.execute(query.join(Content, Content.id == OutcomeRow.content_id))
            }

    def work(self) -> None:
        def outcomes(claim: Claim) -> list[Outcome]:
            of = spec_of_claim(self.database, claim)
            self.times.update((of.model, text) for _, text in claim.texts)
            return [outcome(of, content_id, text) for content_id, text in claim.texts]

        work(self.database, outcomes)
        ended = {*jobs.finish(self.database)}
        for one in self.made:
            if one.id in ended:
                one.ended = self.day
        for row in self.rows():
            self.born.setdefault(row, self.day)

    def needed(self) -> set[str]:
        """Return the models whose results must stay."""
        kept = [one for one in self.made if one.ended is None or self.day - one.ended < LIMIT_DAYS]
        for corpus in {one.corpus for one in self.made}:
            for kind in ("translate", "embed", "summarize"):
                having = [one for one in self.made if one.corpus == corpus and kind in {s.kind for s in one.steps}]
                kept += having[-1:]
                kept += [one for one in having if one.ended is not None][-1:]
        return {step.model for one in kept for step in one.steps}

    def sweep(self, rows: int | None) -> None:
        before, needed = self.rows(), self.needed()
        retention.apply(self.database, {"results": LIMIT_S, "shards": LIMIT_S}, RemovalBudget.of(rows))
        after = self.rows()
        gone = before - after
        old = {row for row in before if self.day - self.born[row] > LIMIT_DAYS}
        assert {model for model, _ in gone}.isdisjoint(needed), "something needed was removed"
        direct = {row for row in gone if row in old}
        assert all("<" in text for _, text in gone - direct), "only what follows from a removed text goes early"
        if rows is None:
            assert {row for row in after & old if row[0] not in needed} == set(), "something old and needless stayed"
        for row in gone:
            self.removed[row] += 1
            del self.born[row]


@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_retention_removes_what_an_independent_model_says_and_nothing_else(database: Database, data: Any) -> None:
    example = uuid.uuid4().hex
    empty(database)
    model = Model(database)
    acts = st.sampled_from(["run", "run", "open", "work", "days", "days", "sweep", "sweep a little"])
    for act in [*data.draw(st.lists(acts, min_size=3, max_size=14), "acts"), "days", "sweep", "work"]:
        if act in {"run", "open"}:
            steps = CHOICES[data.draw(st.sampled_from(sorted(CHOICES)), "steps")]
            corpus = f"{data.draw(st.sampled_from('ab'), 'corpus')} {example}"
            texts = data.draw(st.lists(st.sampled_from("uvwxyz"), min_size=1, max_size=4), "texts")
            job = read(database, asked(*steps, corpus=corpus), [(str(n), text) for n, text in enumerate(texts)])
            if job.id not in {one.id for one in model.made}:
                model.made.append(Made(job.id, corpus, steps, None))
            if act == "run":
                model.work()
        elif act == "work":
            model.work()
        elif act == "days":
            days = data.draw(st.sampled_from([10.0, 20.0, 40.0]), "days")
            model.day += days
            days_pass(database, days)
        else:
            model.sweep(data.draw(st.integers(1, 3), "rows") if act == "sweep a little" else None)
    assert all(n <= 1 + model.removed[row] for row, n in model.times.items()), "a stored result was computed again"
    for one in model.made:
        status = read_status(database, one.id)
        assert (status.state, status.pending, status.failed) == ("done", 0, 0)


def test_a_rule_without_an_age_removes_nothing(database: Database) -> None:
    run(database, asked(spec(model="m1")))
    run(database, asked(spec(model="m2")))
    days_pass(database, 1_000)
    assert retention.apply(database, {"shards": LIMIT_S}).removed.keys() == {"shards", "texts"}
    assert stored(database) == {"m1": 3, "m2": 3}
