"""Scheduled runs, views and indexes of a corpus that is migrated to another model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from docmill.features.migrating import stored_migrations, switching
from docmill.features.migrating.plan import MigrationPlan, choose_step, make_spec, plan
from docmill.features.migrating.switching import Survey, migrate
from docmill.storage.core.database import Database
from docmill.storage.core.lookups import find_corpus
from docmill.storage.errors import StorageError
from docmill.storage.pipelines import pipelines, views
from docmill.storage.results.status import read_status
from docmill.storage.search import pgvector_index
from docmill.storage.search.search import choose
from docmill.storage.steps import fitted_risks
from docmill.storage.steps.conditions import Doubt
from docmill.storage.steps.jobs import JobRequest
from docmill.storage.steps.replacements import SpecReplacement
from docmill.storage.steps.risk import FittedRisk, RiskModel
from docmill.storage.steps.steps import EscalationRequest
from docmill.worker.jobs import Listener
from docmill.worker.pipelines.file import parse
from docmill.worker.pipelines.running import advance, requests_of
from docmill.worker.queue.broker import Broker
from docmill.worker.settings import Settings
from tests.kinds import KINDS
from tests.storage.builders import embedded, finish, numbered, read

HOURLY = {"cron": "0 * * * *", "timezone": "UTC", "overlap": "queue"}
PIPELINE = """
name = "nightly"
[corpus]
source = "corpus.jsonl"
name = "notes"
[[step]]
name = "meaning"
task = "embed"
model = "null"
window-tokens = 64
"""


def write(folder: Path, n: int) -> None:
    lines = (json.dumps({"id": f"n{i}", "text": f"note {i}"}) for i in range(n))
    (folder / "corpus.jsonl").write_text("\n".join(lines))


def run_as_scheduled(database: Database, settings: Settings, broker: Broker, hour: int) -> int:
    """Have the run of an hour read its source, and compute its job, whose number is returned."""
    run_id = pipelines.fire(database, pipelines.scheduled(database)[0], float(hour))
    assert run_id is not None
    advance(settings, database, broker, run_id, owner="w1")
    finish(database, embedded)
    advance(settings, database, broker, run_id, owner="w1")
    run = pipelines.history(database, "nightly")[0]
    assert (run.state, run.id) == ("done", run_id), run.reason
    assert run.job_id is not None
    return run.job_id


def fill(database: Database, settings: Settings) -> SpecReplacement:
    """Begin a migration from null to null@9000, and compute its backfill."""
    planned = plan_migration(database, settings)
    migration = stored_migrations.begin(database, planned.corpus_id, planned.old, planned.new)
    job = read(database, JobRequest("notes", migration.source, switching.requests_by_new(database, migration)), [])
    stored_migrations.note_job(database, migration.id, job.id)
    finish(database, embedded)
    return stored_migrations.reread(database, migration)


def plan_migration(database: Database, settings: Settings) -> MigrationPlan:
    corpus_id = find_corpus(database, "notes")
    old = choose_step(database, corpus_id, "notes", "null")
    return plan(database, corpus_id, "notes", old, *make_spec(settings, old.spec, "null@9000", None, {}))


def switch(database: Database, settings: Settings, most_lost: float) -> Survey:
    """Switch to null@9000, of which nothing is missing."""
    return migrate(settings, database, plan_migration(database, settings), (), most_lost, Listener())[1]


def test_scheduled_runs_compute_the_old_model_until_the_switch_and_then_the_new_one(
    database: Database, broker: Broker, settings: Settings, tmp_path: Path
) -> None:
    write(tmp_path, 3)
    file = tmp_path / "nightly.toml"
    pipelines.put(database, "nightly", str(file), PIPELINE, HOURLY)
    views.make(database, "nightly", "notes", requests_of(settings, parse(PIPELINE, file)))
    first = run_as_scheduled(database, settings, broker, 1)
    old = read_status(database, first).spec
    migration = fill(database, settings)
    assert migration.new.params == old.params, "the options are those of the old job"
    write(tmp_path, 4)
    assert read_status(database, run_as_scheduled(database, settings, broker, 2)).spec == old
    assert switching.survey_documents(database, migration).missing == 1
    fill(database, settings)
    assert switch(database, settings, 0.0).documents == 4
    write(tmp_path, 5)
    third = run_as_scheduled(database, settings, broker, 3)
    assert read_status(database, third).spec == migration.new
    searched = choose(database, ["notes"])
    assert (searched.spec, searched.n_documents) == (migration.new, 5)
    with database.read() as transaction:
        done = transaction.exec_driver_sql("SELECT count(*) FROM pipeline_nightly WHERE meaning_status = 'done'")
        assert done.scalar_one() == 5


def test_a_migration_to_a_model_whose_risk_nobody_fitted_is_refused_while_it_is_planned(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    translating = parse(PIPELINE.replace('"embed"', '"translate"'), tmp_path / "nightly.toml")
    [step] = requests_of(settings, translating)
    plain = read(database, JobRequest("notes", "a.jsonl", (step,)), numbered(2))
    spec_id = fitted_risks.spec_with_risk(database, plain.id)
    fitted_risks.store(database, spec_id, FittedRisk(0, RiskModel(0.0, ()), 150, 50, {}))
    escalation = EscalationRequest(replace(step.spec, model="null@5000"), Doubt.parse(["risk>0.5"]))
    read(database, JobRequest("notes", "b.jsonl", (replace(step, escalation=escalation),)), numbered(2))
    with pytest.raises(StorageError, match=r"no risk was fitted for the outputs of .*null@9000"):
        plan_migration(database, settings)


@pytest.fixture
def with_pgvector(pgvector_url: str) -> Iterator[Database]:
    database = Database(pgvector_url, kinds=KINDS)
    yield database
    database.close()


def test_an_index_of_the_old_vectors_brings_one_of_the_new(
    with_pgvector: Database, settings: Settings, tmp_path: Path
) -> None:
    database = with_pgvector
    steps = requests_of(settings, parse(PIPELINE, tmp_path / "nightly.toml"))
    read(database, JobRequest("notes", "a.jsonl", steps), numbered(5))
    finish(database, embedded)
    migration = fill(database, settings)
    pgvector_index.add(database, migration.old_spec_id)
    assert switch(database, settings, 0.0).documents == 5
    of = {index.spec_id: index.vectors for index in pgvector_index.list_indexes(database)}
    assert of == {migration.old_spec_id: 5, migration.new_spec_id: 5}
