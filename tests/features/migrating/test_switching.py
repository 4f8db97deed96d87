"""A corpus switches to the results of another model, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import delete, text

from docmill.features.migrating import stored_migrations, switching
from docmill.features.migrating.switching import Survey, TooManyLost
from docmill.storage import fault_points
from docmill.storage.core.database import Database
from docmill.storage.core.lookups import find_corpus
from docmill.storage.core.schema import Step
from docmill.storage.core.specs import Outcome, Spec
from docmill.storage.deletion import gc, needed, removal
from docmill.storage.errors import NothingEmbedded, StorageError
from docmill.storage.leases.shards import Claim
from docmill.storage.pipelines import views
from docmill.storage.search.search import choose
from docmill.storage.steps import replacements
from docmill.storage.steps.jobs import JobRequest
from docmill.storage.steps.replacements import SpecReplacement
from docmill.storage.steps.steps import EscalationRequest, StepRequest
from tests.storage.builders import COPY, EMBED, done, embedded, failed, finish, numbered, read, request, work

NEW = Spec("embed", "e5", "sha256:9")
THIRD = Spec("embed", "bge", "sha256:8")
STEPS = (StepRequest("meaning", EMBED),)
VIEWS = {"nightly": STEPS}


def embed(database: Database, texts: Sequence[Any], spec: Spec = EMBED) -> None:
    read(database, request(spec=spec), texts)
    finish(database, embedded)


def begin(database: Database, old: Spec = EMBED, new: Spec = NEW) -> SpecReplacement:
    corpus_id = find_corpus(database, "books")
    replaceable = next(step for step in stored_migrations.replaceable_steps(database, corpus_id) if step.spec == old)
    return stored_migrations.begin(database, corpus_id, replaceable, new)


def read_replacements(database: Database) -> list[SpecReplacement]:
    return stored_migrations.list_all(database, find_corpus(database, "books"))


def backfill(database: Database, migration: SpecReplacement, outcomes: Any = embedded) -> None:
    read(database, JobRequest("books", migration.source, switching.requests_by_new(database, migration)), [])
    finish(database, outcomes)


def migrate(database: Database, old: Spec = EMBED, new: Spec = NEW) -> SpecReplacement:
    migration = begin(database, old, new)
    backfill(database, migration)
    assert switching.switch(database, migration, switching.survey_documents(database, migration), {}, 0.0) is not None
    return migration


def read_answering_spec(database: Database) -> Spec:
    """Return the spec by which a search answers."""
    return choose(database, ["books"]).spec


def test_the_old_spec_answers_until_the_switch_and_the_new_one_even_for_later_jobs_of_the_old(
    database: Database,
) -> None:
    embed(database, numbered(5))
    migration = begin(database)
    backfill(database, migration)
    assert read_answering_spec(database) == EMBED
    embed(database, [*numbered(5), ("more", "more")])
    assert read_answering_spec(database) == EMBED
    survey = switching.survey_documents(database, migration)
    assert survey == Survey(documents=6, missing=1, lost=1, last=survey.last)
    assert switching.switch(database, migration, survey, {}, 0.0) is None, "a document came meanwhile"
    backfill(database, migration)
    counted = switching.switch(database, migration, switching.survey_documents(database, migration), {}, 0.0)
    assert counted is not None
    assert (counted.documents, counted.missing) == (6, 0)
    assert read_answering_spec(database) == NEW
    embed(database, [*numbered(5), ("last", "last")])  # a schedule that nobody changed
    assert read_answering_spec(database) == NEW
    job = choose(database, ["books"], job_id=1)
    assert job.spec == EMBED, "a job that is named is itself"


def test_a_switch_that_loses_results_is_refused_with_the_number_and_the_way_on(database: Database) -> None:
    embed(database, numbered(4))
    migration = begin(database)

    def one_fails(claim: Claim) -> list[Outcome]:
        return [*failed(claim)[:1], *embedded(claim)[1:]]

    backfill(database, migration, one_fails)
    survey = switching.survey_documents(database, migration)
    assert (survey.documents, survey.lost) == (4, 1)
    with pytest.raises(TooManyLost, match=r"1 of 4 documents would lose .*--max-failures 25\.26 switches"):
        switching.switch(database, migration, survey, {}, 20.0)
    with pytest.raises(TooManyLost, match=r"200 of 200 documents would lose their result \(100 %\)"):
        switching.switch(database, migration, Survey(documents=200, lost=200, last=survey.last), {}, 20.0)
    assert read_answering_spec(database) == EMBED
    assert switching.switch(database, migration, survey, {}, 25.26) is not None
    assert read_answering_spec(database) == NEW


def test_the_view_switches_in_the_same_transaction_and_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(database, numbered(3))
    views.make(database, "nightly", "books", STEPS)
    migration = begin(database)

    def vectors() -> list[bytes]:
        with database.read() as transaction:
            rows = transaction.execute(text("SELECT meaning_vector FROM pipeline_nightly")).all()
        return [bytes(row.meaning_vector) for row in rows]

    def others(claim: Claim) -> list[Outcome]:
        return [dataclasses.replace(outcome, vector=b"\0\0\0@") for outcome in embedded(claim)]

    backfill(database, migration, others)
    survey = switching.survey_documents(database, migration)

    def fall(point: str) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(fault_points, "reach", fall)
        with pytest.raises(ZeroDivisionError):
            switching.switch(database, migration, survey, VIEWS, 0.0)
    assert (read_answering_spec(database), {*vectors()}) == (EMBED, {b"\0\0\x80?"})
    switched = [switching.switch(database, migration, survey, VIEWS, 0.0) for _ in range(2)]
    assert switched == [survey, survey]
    assert (read_answering_spec(database), {*vectors()}) == (NEW, {b"\0\0\0@"})
    last = switching.last_switched(read_replacements(database), "books")
    assert switching.undo(database, last, VIEWS)
    assert (read_answering_spec(database), {*vectors()}) == (EMBED, {b"\0\0\x80?"})
    assert switching.undo(database, last, VIEWS)  # again, if the answer of the commit was lost
    with pytest.raises(StorageError, match="of the corpus books was switched, so there is nothing to take back"):
        switching.last_switched(read_replacements(database), "books")


def test_migrations_follow_one_another_and_return_to_the_first_model(database: Database) -> None:
    embed(database, numbered(3))
    migrate(database)
    migrate(database, NEW, THIRD)
    assert read_answering_spec(database) == THIRD
    [substitute] = replacements.substitute_specs(database, "books", [StepRequest("meaning", EMBED)])
    assert substitute.spec == THIRD
    assert read_answering_spec(database) == THIRD
    migrate(database, THIRD, EMBED)
    assert read_answering_spec(database) == EMBED
    [substitute] = replacements.substitute_specs(database, "books", [StepRequest("meaning", NEW)])
    assert substitute.spec == EMBED
    standing = replacements.specs_in_force(read_replacements(database))
    assert standing == {NEW: EMBED, THIRD: EMBED}, "it is replaced no more"


def test_a_cancelled_migration_leaves_the_old_spec_and_a_later_job_by_hand_counts(database: Database) -> None:
    embed(database, numbered(3))
    migration = begin(database)
    with pytest.raises(StorageError, match="is being migrated from minilm to e5"):
        begin(database, new=THIRD)
    backfill(database, migration)
    assert stored_migrations.cancel(database, migration.id)
    assert stored_migrations.cancel(database, migration.id)
    assert not switching.undo(database, migration, {})
    assert read_answering_spec(database) == EMBED
    survey = switching.survey_documents(database, migration)
    with pytest.raises(StorageError, match="was cancelled meanwhile"):
        switching.switch(database, migration, survey, {}, 0.0)
    embed(database, numbered(3), NEW)
    assert read_answering_spec(database) == NEW


def test_only_specs_that_were_replaced_in_all_corpora_long_enough_ago_are_removed(database: Database) -> None:
    embed(database, numbered(3))
    migration = migrate(database)
    assert needed.replaced_specs(database, 3_600.0)[0] == ()
    read(database, request("b.jsonl", corpus="films", spec=EMBED), [("f", "film")])
    assert "films" in needed.replaced_specs(database, 0.0)[1][0]
    finish(database, embedded)
    removal.remove_corpus(database, "films")
    going, _ = needed.replaced_specs(database, 0.0)
    assert going == (migration.old_spec_id,)
    assert needed.note_dropped(database, going, 0.0) == going
    assert gc.drop(database, spec_ids=going).outcomes == 3
    assert read_answering_spec(database) == NEW
    with pytest.raises(StorageError, match="`docmill gc` removed the results of minilm"):
        switching.last_switched(read_replacements(database), "books")
    removal.remove_corpus(database, "books")


def drop_replaced(database: Database) -> None:
    going, _ = needed.replaced_specs(database, 0.0)
    assert needed.note_dropped(database, going, 0.0) == going
    gc.drop(database, spec_ids=going)


def test_search_offers_no_spec_whose_vectors_were_dropped_until_a_job_computes_it_again(database: Database) -> None:
    embed(database, numbered(3))
    migrate(database)
    assert choose(database, ["books"]).others == (f"job 1, {EMBED}",)
    drop_replaced(database)
    assert choose(database, ["books"]).others == ()
    with pytest.raises(NothingEmbedded, match=r"those that do: job 2, embed with e5@\S+ \(native\)$"):
        choose(database, ["books"], job_id=7)
    with pytest.raises(
        NothingEmbedded, match=r"`docmill gc` removed the vectors of job 1, .*; there are also: job 2,"
    ):
        choose(database, ["books"], job_id=1)
    read(database, request("b.jsonl", corpus="films", spec=EMBED), [("f", "film")])
    work(database, embedded)
    assert choose(database, ["books"]).others == (), "another corpus computed the spec again, this one did not"
    embed(database, numbered(3))
    assert choose(database, ["books"]).others == (f"job 4, {EMBED}",)


def test_a_spec_that_answers_again_since_it_was_to_be_removed_stays(database: Database) -> None:
    embed(database, numbered(3))
    migration = migrate(database)
    going, _ = needed.replaced_specs(database, 0.0)
    assert switching.undo(database, migration, {})
    assert needed.note_dropped(database, going, 0.0) == ()
    assert read_answering_spec(database) == EMBED


def test_a_migration_outlives_the_old_job_whose_steps_its_backfill_has(database: Database) -> None:
    embed(database, numbered(3))
    migration = begin(database)
    backfill(database, migration)
    forgotten = delete(Step).where(Step.job_id == migration.old_job_id)
    database.write(lambda transaction: transaction.execute(forgotten))
    with pytest.raises(StorageError, match="was removed; `docmill migrate cancel books` ends the migration"):
        switching.survey_documents(database, migration)
    stored_migrations.note_job(database, migration.id, 2)
    known = stored_migrations.reread(database, migration)
    for back in (False, True):
        assert switching.survey_documents(database, known, back=back) == Survey(3, 0, 0, 3)


def test_an_escalation_that_would_compute_other_prompts_is_left_out_of_the_steps(database: Database) -> None:
    old, large = (
        Spec("translate", model, "sha256:1", params={"prompt": "On {meta.n}: {text}"}) for model in ("small", "large")
    )
    new = dataclasses.replace(old, model="other")
    unlike = dataclasses.replace(new, params={"prompt": "{meta.n} words: {text}"})
    steps = (StepRequest("english", old, escalation=EscalationRequest(large)),)
    assert replacements.with_specs(steps, {old: new}) == (dataclasses.replace(steps[0], spec=new),)
    read(database, JobRequest("books", "a.jsonl", steps), numbered(3))
    finish(database)
    migration = begin(database, old, unlike)
    backfill(database, migration, done)
    assert switching.requests_by_new(database, migration) == (StepRequest("english", unlike),)
    survey = switching.survey_documents(database, migration)
    assert switching.switch(database, migration, survey, {"nightly": steps}, 0.0) == Survey(3, 0, 0, 3)


def test_a_middle_step_is_migrated_with_the_steps_that_read_it(database: Database) -> None:
    steps = (StepRequest("line", COPY), StepRequest("meaning", EMBED, "line"))
    read(database, JobRequest("books", "a.jsonl", steps), numbered(3))

    def both(claim: Claim, prefix: str = "old") -> list[Outcome]:
        if claim.texts[0][1].startswith("text"):
            return [dataclasses.replace(outcome, text=f"{prefix} {outcome.content_id}") for outcome in done(claim)]
        return embedded(claim)

    finish(database, both)
    migration = begin(database, COPY, dataclasses.replace(COPY, model="copier-2"))
    survey = switching.survey_documents(database, migration)
    assert (survey.documents, survey.missing) == (3, 3)
    backfill(database, migration, lambda claim: both(claim, "new"))
    survey = switching.survey_documents(database, migration)
    assert switching.switch(database, migration, survey, {}, 0.0) == Survey(3, 0, 0, 3)
