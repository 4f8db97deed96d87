"""Each invariant can fail: SQL that breaks it makes docmill report it, and no other."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import func, inspect, select

from docmill.storage.core.database import Database
from docmill.storage.core.invariants import PLANNING, check_invariants, invariants
from docmill.storage.core.specs import Outcome, Reason, Status
from docmill.storage.core.transaction import Transaction
from docmill.storage.leases.shards import Claim
from docmill.storage.steps.steps import StepRequest
from tests.storage.builders import COPY, TRANSLATE, claim_next, numbered, read, request, run_job, work
from tests.storage.invariants import assert_invariants

FIRST, AGAIN, CHAIN, RUNNING = 1, 2, 3, 4  # jobs


def outcomes(claim: Claim) -> list[Outcome]:
    """Return a different output for each text; the third text fails, and the second has a flag."""
    return [
        Outcome(content_id, Status.FAILED, reason="it would not", reason_class=Reason.DOCUMENT)
        if content_id == 3
        else Outcome(
            content_id, Status.DONE, text=f"out {claim.spec_id} {content_id}", flags=("x",) * (content_id == 2)
        )
        for content_id, _ in claim.texts
    ]


@pytest.fixture
def store(database: Database) -> Database:
    """A store with jobs: one is done, one found some of its results, one has two steps, and one is running."""
    read(database, request(), [(key, f"text {key}") for key in "abcdef"])
    work(database, outcomes)
    read(database, request(corpus="poems"), [("f", "text f"), ("g", "text g")])
    work(database, outcomes)
    steps = (StepRequest("one", TRANSLATE), StepRequest("two", COPY, "one"))
    letters = [("l", "a letter"), ("m", "another letter")]
    run_job(database, request("b.jsonl", corpus="letters", steps=steps), letters, outcomes)
    read(database, request(corpus="plays"), [("a", "text a"), ("p", "a play"), ("q", "another play")])
    claim_next(database)
    assert_invariants(database)
    return database


NO_SHARD = "state = 'planned', finished_at = NULL, owner = NULL, dispatched_at = NULL, n_done = 0, n_failed = 0"
COPIED = """job_id, step, spec_id, lane, contents, n_contents, n_chars, state, redo, fence, attempt, suspect, lapses,
    not_before, finished_at, n_done, n_failed, n_skipped, n_truncated, n_doubtful, tokens_in, tokens_out"""
BREAKS = {
    "references": ["INSERT INTO refusal (worker_id, spec_id, reason, refused_at) VALUES ('w1', 999, 'no', 1)"],
    "one_outcome": ["INSERT INTO outcome SELECT * FROM outcome WHERE content_id = 1"],
    "outcome_status": ["UPDATE outcome SET reason = NULL WHERE status = 'failed'"],
    "vector_lengths": ["UPDATE outcome SET vector = sha256 FROM content WHERE content.id = 1 AND content_id = 1"],
    "texts_in_use": ["INSERT INTO content (id, sha256, text, n_chars) VALUES (999, sha256('loose'), 'loose', 5)"],
    "current_versions": [
        "UPDATE document SET superseded_by = 999 WHERE id = 1",
        "UPDATE corpus SET n_documents = n_documents - 1 WHERE id = 1",
    ],
    "same_corpus": ["UPDATE document SET ingest_id = 2 WHERE id = 1"],
    "corpus_counts": ["UPDATE corpus SET n_documents = n_documents + 1 WHERE id = 1"],
    "job_counts": [f"UPDATE job SET n_documents = n_documents - 1 WHERE id = {FIRST}"],
    "job_states": [f"UPDATE job SET paused = true WHERE id = {FIRST}"],
    "finished_jobs": [f"UPDATE shard SET {NO_SHARD} WHERE job_id = {FIRST}"],
    "run_states": [
        "INSERT INTO pipeline (id, name, path, text, looked_at, created_at, updated_at) "
        "VALUES (1, 'p', '', '', 1, 1, 1)",
        "INSERT INTO pipeline_run (pipeline_id, state, created_at) VALUES (1, 'done', 1)",
    ],
    "step_inputs": [f"UPDATE step SET input_step = 7 WHERE job_id = {CHAIN} AND seq = 1"],
    "shard_steps": [f"UPDATE shard SET step = 9 WHERE job_id = {FIRST}"],
    "shard_leases": [f"UPDATE shard SET lease_until = 1 WHERE job_id = {FIRST}"],
    "shard_counts": [f"UPDATE shard SET n_failed = n_failed + 1 WHERE job_id = {FIRST}"],
    "planned_once": [
        f"INSERT INTO shard (id, {COPIED}) SELECT 999, {COPIED} FROM shard WHERE job_id = {FIRST}",
    ],
    "retry_counts": [f"UPDATE step SET n_retried = 1 WHERE job_id = {FIRST}"],
    "step_counts": [f"UPDATE step SET n_prior_done = 0 WHERE job_id = {RUNNING}"],
    "nothing_forgotten": [
        f"DELETE FROM shard WHERE job_id = {RUNNING}",
        f"UPDATE step SET n_prior_done = 3 WHERE job_id = {RUNNING}",
    ],
    "outputs_passed_on": ["DELETE FROM step_text WHERE content_id = (SELECT max(content_id) FROM step_text)"],
    "nothing_lost": [
        f"DELETE FROM shard WHERE job_id = {FIRST}",
        "DELETE FROM outcome WHERE content_id = 4",
    ],
    "results_kept": [
        f"UPDATE job SET forgotten_at = 1 WHERE id = {CHAIN}",
        f"DELETE FROM outcome WHERE content_id IN (SELECT content_id FROM step_text WHERE job_id = {CHAIN})",
    ],
    "kept_shards": ["UPDATE shard_count SET n = n + 1 WHERE id IN (SELECT min(id) FROM shard_count)"],
    "kept_outcomes": ["INSERT INTO work_count (name, lane, label, n) VALUES ('flags', 'copy', 'y', 1)"],
}
OF_DATABASES = {
    "sqlite": {  # which cannot drop a primary key
        "one_outcome": [
            "PRAGMA legacy_alter_table = ON",
            "CREATE TABLE copied AS SELECT * FROM outcome UNION ALL SELECT * FROM outcome WHERE content_id = 1",
            "DROP TABLE outcome",
            "ALTER TABLE copied RENAME TO outcome",
        ],
        "texts_in_use": ["INSERT INTO content (id, sha256, text, n_chars) VALUES (999, x'99', 'loose', 5)"],
    },
    "postgresql": {
        "references": ["ALTER TABLE refusal DROP CONSTRAINT fk_refusal_spec_id", *BREAKS["references"]],
        "one_outcome": ["ALTER TABLE outcome DROP CONSTRAINT pk_outcome CASCADE", *BREAKS["one_outcome"]],
    },
}


def break_invariant(database: Database, name: str) -> dict[str, list[dict[str, Any]]]:
    """Break an invariant by SQL. Return the rows that break each invariant then, and roll back."""
    dialect = database.engine.dialect.name
    broken = {}

    def work(transaction: Transaction) -> None:
        if dialect == "sqlite":
            transaction.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        for statement in OF_DATABASES[dialect].get(name, BREAKS[name]):
            transaction.exec_driver_sql(statement)
        broken.update({invariant.name: rows for invariant, rows, _ in check_invariants(transaction) if rows})
        raise Undone

    with suppress(Undone):
        database.write(work)
    return broken


class Undone(Exception):
    """Roll the transaction back."""


def test_a_broken_invariant_is_reported_and_no_other(store: Database) -> None:
    names = [invariant.name for invariant in invariants(store.server)]
    assert {name: list(break_invariant(store, name)) for name in names} == {name: [name] for name in names}
    assert break_invariant(store, "corpus_counts") == {
        "corpus_counts": [{"corpus_id": 1, "n_documents": 7, "documents": 6}]
    }
    assert_invariants(store)


def test_every_foreign_key_of_the_store_is_checked(database: Database) -> None:
    query, tables = invariants(database.server)[0].query, inspect(database.engine)
    names = {
        f"'{table}.{key['constrained_columns'][0]}'"
        for table in tables.get_table_names()
        for key in tables.get_foreign_keys(table)
    }
    assert "'outcome.output_id'" in names
    assert not [name for name in names if name not in query]


def test_postgresql_plans_the_checks_without_nested_loops_and_later_queries_with_them(postgres: Database) -> None:
    setting = select(func.current_setting("enable_nestloop"))
    with postgres.read() as transaction:
        assert not [rows for _, rows, _ in check_invariants(transaction) if rows]
        assert transaction.scalar(setting) == "off"
    assert postgres.value(setting) == "on"


def count_touched(node: dict[str, Any]) -> int:
    """Return the number of rows that a part of a plan read, each time that it ran."""
    names = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Join Filter")
    own = node["Actual Loops"] * sum(node.get(name, 0) for name in names)
    return int(own + sum(map(count_touched, node.get("Plans", ()))))


def test_a_check_of_four_times_as_many_texts_reads_about_four_times_as_many_rows(postgres: Database) -> None:
    steps = (StepRequest("one", TRANSLATE), StepRequest("two", COPY, "one"))
    rows = list[dict[str, int]]()
    for source, n in (("a", 100), ("b", 300)):
        run_job(postgres, request(source, corpus=source, steps=steps), numbered(n, len(rows) * 100), outcomes)
        with postgres.read() as transaction:
            for setting in PLANNING["PostgreSQL"]:
                transaction.exec_driver_sql(f"SET LOCAL {setting}")
            explained = (
                (each.name, transaction.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {each.query}").scalar_one())
                for each in invariants("PostgreSQL")
            )
            rows.append({name: count_touched(plan[0]["Plan"]) for name, plan in explained})
    few, many = rows
    assert not {name: (few[name], n) for name, n in many.items() if n > 8 * few[name] + 1_000}
