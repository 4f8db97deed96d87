"""A view for each pipeline that is kept: its corpus as it is now, with every step's result. An admin's act.

Columns: `id`, `meta`, `flags`, `document` (the text), and for each step `STEP` (its text) or `STEP_vector` (float32,
little-endian), `STEP_status` (done, failed, skipped, blocked, or NULL while it is to be computed) and `STEP_reason`.
The view follows the corpus; a pipeline that is added again gets a new one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlalchemy import Connection

from storage import rows
from storage.database import Database
from storage.flow import templates
from storage.flow.steps import StepRequest
from storage.results.output_types import VECTOR


def name_of(pipeline: str) -> str:
    """What its view is called."""
    return f"pipeline_{pipeline.replace('-', '_').lower()}"


def make(database: Database, pipeline: str, corpus: str, steps: Sequence[StepRequest]) -> None:
    """Make the view of a pipeline, in place of one that was there. Needs the right to make views."""

    def work(connection: Connection) -> None:
        spec_ids = [rows.spec_id(database, connection, step.spec) for step in steps]
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {_quoted(name_of(pipeline))}")
        statement = f"CREATE VIEW {_quoted(name_of(pipeline))} AS {_definition(database, corpus, steps, spec_ids)}"
        connection.exec_driver_sql(statement if database.is_sqlite else statement.replace("%", "%%"))

    database.write(work)


def drop(database: Database, pipeline: str) -> None:
    """Drop the view of a pipeline, if there is one."""
    database.write(lambda connection: connection.exec_driver_sql(f"DROP VIEW IF EXISTS {_quoted(name_of(pipeline))}"))


def _definition(database: Database, corpus: str, steps: Sequence[StepRequest], spec_ids: Sequence[int]) -> str:
    numbers = {step.name: number for number, step in enumerate(steps)}
    columns = ["document.key AS id", "document.meta", "document.flags", "content.text AS document"]
    joins = ["document", "JOIN content ON content.id = document.content_id"]
    for number, (step, spec_id) in enumerate(zip(steps, spec_ids, strict=True)):
        this, before = f"step_{number}", None if step.input is None else f"step_{numbers[step.input]}"
        read = given = "document.content_id" if before is None else f"{before}.output_id"
        if templates.over_metadata(step.spec.params):
            prompt, read = f"prompt_{number}", f"prompt_{number}.content_id"
            of_document = f"{prompt}.spec_id = {spec_id} AND {prompt}.document_id = document.id"
            of_text = f"{prompt}.text_id = {given}"
            joins.append(f"LEFT JOIN prompt AS {prompt} ON {of_document} AND {of_text}")
        joins.append(f"LEFT JOIN outcome AS {this} ON {this}.spec_id = {spec_id} AND {this}.content_id = {read}")
        output = database.kind_of(step.spec.kind).output
        is_vector = output is VECTOR
        status = f"{this}.status"
        if before is not None:
            status = f"CASE WHEN {_lacks_output(steps, numbers, step)} THEN 'blocked' ELSE {status} END"
        columns += [
            f"{this}.{'vector' if is_vector else 'text'} AS {_quoted(output.column(step.name))}",
            f"{status} AS {_quoted(step.name + '_status')}",
            f"{this}.reason AS {_quoted(step.name + '_reason')}",
        ]
    # By its name: a corpus that was removed and read anew has another number.
    of_corpus = "document.corpus_id = (SELECT id FROM corpus WHERE name = '{}')".format(corpus.replace("'", "''"))  # noqa: S608
    condition = f"{of_corpus} AND document.superseded_by IS NULL AND NOT document.gone"
    return f"SELECT {', '.join(columns)} FROM {' '.join(joins)} WHERE {condition}"  # noqa: S608


def _lacks_output(steps: Sequence[StepRequest], numbers: dict[str, int], step: StepRequest) -> str:
    """The condition for any of the steps that lead to this one to have failed or skipped."""
    over = []
    while step.input is not None:
        over.append(f"step_{numbers[step.input]}.status IN ('failed', 'skipped')")
        step = steps[numbers[step.input]]
    return " OR ".join(over)


def _quoted(name: str) -> str:
    assert re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name), "pipelines and steps have plain names"
    return f'"{name}"'
