"""The way from a document through a job's steps to what one of them reads, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, and_, or_, select

from storage.database import Database
from storage.flow import prompts
from storage.flow.steps import OpenStep
from storage.schema import Document, Job, OutcomeRow, Prompt


def visible(job: Any) -> Any:
    """The condition for a document to belong to a job (its row): the corpus as it stood when its source had been
    read, or as it stands while it is being read.
    """
    current = Document.superseded_by.is_(None)
    if job.last_document is None:
        return and_(Document.corpus_id == job.corpus_id, current, ~Document.gone)
    return and_(
        Document.corpus_id == job.corpus_id,
        ~Document.gone,
        Document.id <= job.last_document,
        or_(current, Document.superseded_by > job.last_document),
    )


def given(
    database: Database, connection: Connection, way: Sequence[OpenStep], own: Mapping[int, int]
) -> Mapping[int, int]:
    """By document the text that the last step of a way is given, as a content: the document's, or the output before.

    `own` has the documents' contents. Those for which there is none yet are left out.
    """
    reached = own
    for step, _ in pairwise(way):
        read = prompts.of(database, connection, step, reached)
        query = select(OutcomeRow.content_id, OutcomeRow.output_id).where(
            OutcomeRow.spec_id == step.spec_id, OutcomeRow.output_id.is_not(None)
        )
        found = database.probe(connection, query, OutcomeRow.content_id, {*read.values()})
        outputs = {row.content_id: row.output_id for row in found}
        reached = {document_id: outputs[one] for document_id, one in read.items() if one in outputs}
    return reached


def read(
    database: Database, connection: Connection, way: Sequence[OpenStep], own: Mapping[int, int]
) -> Mapping[int, int]:
    """By document the content that the last step of a way computes: what it is given, or the prompt around it."""
    return prompts.of(database, connection, way[-1], given(database, connection, way, own))


def joined(query: Any, way: Sequence[OpenStep]) -> tuple[Any, Any]:
    """A query over documents joined to their outcomes at the last step of a way, and the columns of those."""
    reached: Any = Document.content_id
    outcome: Any = None
    for step in way:
        query, read = prompts.joined(query, step, reached)
        table = OutcomeRow.__table__.alias()
        outcome = table.c
        query = query.join(table, and_(outcome.spec_id == step.spec_id, outcome.content_id == read))
        reached = outcome.output_id
    return query, outcome


def documents(
    database: Database, connection: Connection, job_id: int, way: Sequence[OpenStep], content_ids: Collection[int]
) -> dict[int, int]:
    """The documents that a job has walked of which the last step of a way may read one of these, with their contents.

    There may be some among them that read another: where a prompt is on the way, it was rendered under any job.
    """
    job = connection.execute(select(Job).where(Job.id == job_id)).one()
    walked = and_(visible(job), or_(Document.ingest_id == job.ingest_id, Document.id <= job.swept_to))
    query: Any = select(Document.id, Document.content_id).where(walked)
    reached = {*content_ids}
    for before, step in [*pairwise((None, *way))][::-1]:
        if step is not None and step.template is not None:
            of_spec = select(Prompt.document_id).where(Prompt.spec_id == step.spec_id)
            ids = {row.document_id for row in database.probe(connection, of_spec, Prompt.content_id, reached)}
            found = database.probe(connection, query, Document.id, ids)
            return {row.id: row.content_id for row in found}
        if before is not None:
            put_out = select(OutcomeRow.content_id).where(OutcomeRow.spec_id == before.spec_id)
            reached = {row.content_id for row in database.probe(connection, put_out, OutcomeRow.output_id, reached)}
    found = database.probe(connection, query, Document.content_id, reached)
    return {row.id: row.content_id for row in found}
