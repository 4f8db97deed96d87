"""The view `results` has the outputs of every job by document, with types of SQL."""

from __future__ import annotations

import json
from contextlib import closing
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from sqlalchemy import text

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Outcome, Spec, Status
from docmill.storage.outputs.output_types import LABELS
from docmill.storage.results.results import results
from docmill.storage.steps.steps import EscalationRequest, StepRequest
from tests.kinds import KINDS
from tests.storage.builders import COPY, EMBED, TRANSLATE, by_text, numbered, read, request, work

FIRST_RELEASE = "docmill.storage.migrations.versions.0100_the_first_release"


def read_rows(database: Database, columns: str = "*") -> list[Any]:
    with database.read() as transaction:
        query = text(f"SELECT {columns} FROM results ORDER BY job, document, step")
        return list(transaction.execute(query))


def test_the_view_has_the_output_of_each_step_for_each_document_of_a_job(database: Database) -> None:
    steps = (StepRequest("first", COPY), StepRequest("second", TRANSLATE, input="first"))
    several = read(database, request(steps=steps), numbered(3))
    work(
        database, by_text(lambda text: None if text == "text 2" else {"text": f"{text}, read", "flags": ("reduced",)})
    )
    alone = read(database, request("b.jsonl", corpus="other"), numbered(2))
    rows = read_rows(database)
    assert [(row.job, row.corpus, row.document, row.step, row.text) for row in rows] == [
        (several.id, "books", "k0", "first", "text 0, read"),
        (several.id, "books", "k0", "second", "text 0, read, read"),
        (several.id, "books", "k1", "first", "text 1, read"),
        (several.id, "books", "k1", "second", "text 1, read, read"),
        (alone.id, "other", "k0", alone.steps[0].name, "text 0, read"),
        (alone.id, "other", "k1", alone.steps[0].name, "text 1, read"),
    ]
    assert [row["id"] for row in results(database, several.id, step="second")] == ["k0", "k1"]
    first = rows[0]
    flags = json.loads(first.flags) if isinstance(first.flags, str) else first.flags
    assert (first.task, first.model, flags, first.label) == (COPY.kind, COPY.model, ["reduced"], None)
    assert str(first.computed_at)[:2] == str(first.job_created_at)[:2] == "20"


def test_an_adapted_model_is_named_by_its_adapter_and_the_best_label_has_a_column(database: Database) -> None:
    output = LABELS.stored([("bug", 0.25), ("praise", 0.75)])
    adapted = Spec("classify", "minilm", "sha256:1", params={"adapter": "poems"})
    read(database, request(spec=adapted), numbered(1))
    work(database, lambda claim: [Outcome.done(content_id, output) for content_id, _ in claim.texts])
    [row] = read_rows(database)
    assert (row.model, row.text, row.label, row.score) == ("poems", None, "praise", 0.75)


def test_an_escalated_document_has_a_row_for_each_model(database: Database) -> None:
    better = EscalationRequest(Spec("copy", "better", "sha256:9"))
    read(database, request(steps=(StepRequest("read", COPY, escalation=better),)), numbered(2))
    work(database, by_text(lambda text: {"text": "out", "flags": ("repetition",) if text == "text 0" else ()}))
    rows = read_rows(database, columns="document, model, step")
    assert sorted(map(tuple, rows)) == [
        ("k0", "better", "read"),
        ("k0", "copier", "read"),
        ("k1", "copier", "read"),
    ]


def test_vectors_have_the_type_of_pgvector_if_it_is_installed(pgvector_url: str) -> None:
    first_release = import_module(FIRST_RELEASE)
    numbers = np.array([0.0, -0.1, 1.5, 3e-39, -7e20], "<f4")
    with closing(Database(pgvector_url, kinds=KINDS)) as database:
        read(database, request(spec=EMBED), numbered(1))
        done = partial(Outcome, status=Status.DONE, vector=numbers.tobytes())
        work(database, lambda claim: [done(content_id) for content_id, _ in claim.texts])
        with database.engine.begin() as connection:
            connection.exec_driver_sql("DROP VIEW results")
            connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS vector")
            connection.exec_driver_sql(first_release.results_of_postgresql(has_pgvector=True))
        [row] = read_rows(database, columns="CAST(vector AS text) AS vector, vector_dims(vector) AS n")
        with database.engine.connect() as connection:  # rolled back
            connection.exec_driver_sql("CREATE ROLE results_reader")
            connection.exec_driver_sql("GRANT SELECT ON results TO results_reader")
            connection.exec_driver_sql("SET LOCAL ROLE results_reader")
            assert connection.exec_driver_sql("SELECT count(*) FROM results").scalar() == 1
    assert row.n == 5
    np.testing.assert_allclose(np.array(json.loads(row.vector), "<f4"), numbers, rtol=1e-6)
