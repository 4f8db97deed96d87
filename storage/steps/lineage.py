"""Join documents to their outcomes at a job's steps, page by page in one query, and trace outcomes to documents."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVarTuple

from sqlalchemy import ColumnElement, FromClause, Select, and_, case, or_, select

from docmill.storage.core.lookups import is_current_document
from docmill.storage.core.schema import Document, Job, OutcomeRow, Prompt
from docmill.storage.core.transaction import Transaction
from docmill.storage.steps import choosing, prompts
from docmill.storage.steps.choosing import Columns
from docmill.storage.steps.first_conditions import firsts, is_first
from docmill.storage.steps.flag_conditions import compared_by, selects
from docmill.storage.steps.steps import OpenStep

Ts = TypeVarTuple("Ts")
# The place (seq and id) before the first document of a corpus. Pages seek even their first document behind a place:
# without one, SQLite would take another index and sort the corpus.
START = (-1, 0)
# The columns of an outcome that its result shows.
RESULT = (
    OutcomeRow.status,
    OutcomeRow.text,
    OutcomeRow.vector,
    OutcomeRow.data,
    OutcomeRow.reason,
    OutcomeRow.reason_class,
    OutcomeRow.flags,
    OutcomeRow.tokens_in,
    OutcomeRow.tokens_out,
    OutcomeRow.confidence,
    OutcomeRow.mean_logprob,
    OutcomeRow.least_logprob,
)


def visible(job: Job) -> ColumnElement[bool]:
    """The condition for a document to belong to a job (its row): the corpus as it stood when its source had been
    read, or as it stands while it is being read.
    """
    if job.last_document is None:
        return and_(Document.corpus_id == job.corpus_id, is_current_document())
    return and_(
        Document.corpus_id == job.corpus_id,
        ~Document.gone,
        Document.id <= job.last_document,
        or_(Document.superseded_by.is_(None), Document.superseded_by > job.last_document),
    )


def outcomes(
    transaction: Transaction,
    steps: Sequence[OpenStep],
    own: Mapping[int, int],
    columns: Columns = (),
) -> dict[int, dict[int, Any]]:
    """Return the outcomes of documents at each of these steps: {step: {document: row}}.

    `own` has the documents' contents, and `steps` with each step those that lead to it. A row has these columns of
    the outcome, `content_id` and `output_id`; it is looked up by itself (see `Transaction.probe`).
    """
    found: dict[int, dict[int, Any]] = {}
    for step in steps:
        if step.flagged is not None:
            columns = choosing.with_columns(columns, compared_by(step.flagged))
    for step in steps:
        computed = prompts.of(transaction, step, _given(transaction, step, own, found))
        wanted: Columns = (OutcomeRow.content_id, OutcomeRow.output_id, *columns)
        by_content = choosing.chosen(transaction, step, {*computed.values()}, wanted)
        found[step.seq] = {
            document_id: by_content[content_id]
            for document_id, content_id in computed.items()
            if content_id in by_content
        }
    return found


def _given(
    transaction: Transaction, step: OpenStep, own: Mapping[int, int], found: Mapping[int, Mapping[int, Any]]
) -> Mapping[int, int]:
    if step.input_step is None:
        return firsts(transaction, own) if step.keep_first else own
    before, flagged = found[step.input_step], step.flagged
    return {
        document_id: row.output_id
        for document_id, row in before.items()
        if row.output_id is not None and (flagged is None or flagged.holds(row))
    }


def given(transaction: Transaction, way: Sequence[OpenStep], own: Mapping[int, int]) -> Mapping[int, int]:
    """Return by document the input of the last step of a path: the document's content, or the output before it.

    `own` has the documents' contents. Documents without an input yet are left out.
    """
    columns = () if way[-1].flagged is None else compared_by(way[-1].flagged)
    return _given(transaction, way[-1], own, outcomes(transaction, way[:-1], own, columns))


def read(transaction: Transaction, way: Sequence[OpenStep], own: Mapping[int, int]) -> Mapping[int, int]:
    """Return by document the content that the last step of a path computes: its input, or the prompt around it."""
    return prompts.of(transaction, way[-1], given(transaction, way, own))


def joined(
    query: Select[*Ts], steps: Sequence[OpenStep], *, outer: bool = False
) -> tuple[Select[*Ts], dict[int, FromClause]]:
    """Return a query over documents joined to their outcomes at these steps, and the outcomes' tables by step.

    `steps` has with each step those that lead to it. `outer` keeps the documents without an outcome.
    """
    tables: dict[int, FromClause] = {}
    for step in steps:
        own = own_of(step) if step.input_step is None else read_of(step, tables[step.input_step])
        query, computed = prompts.joined(query, step, own, outer=outer)
        query, found = choosing.joined(query, step, computed, outer=outer)
        tables[step.seq] = found.result
    return query, tables


def own_of(step: OpenStep) -> ColumnElement[Any]:
    """Return the column of the documents that a step reads: their content, NULL for documents that it leaves out."""
    return case((is_first(), Document.content_id)) if step.keep_first else Document.content_id


def read_of(step: OpenStep, before: FromClause) -> ColumnElement[Any]:
    """Return the column of the step before that a step reads: its output, NULL where the condition does not hold."""
    if step.flagged is None:
        return before.c.output_id
    return case((selects(step.flagged, before), before.c.output_id))


def documents(
    transaction: Transaction, job_id: int, way: Sequence[OpenStep], content_ids: Collection[int]
) -> dict[int, int]:
    """Return the traversed documents, with their contents, for which the last step of a path may read these contents.

    Some of them may read other contents: a prompt on the path may come from any job.
    """
    job = Job.of(transaction.execute(select(Job).where(Job.id == job_id)).one())
    walked = and_(visible(job), or_(Document.ingest_id == job.ingest_id, Document.id <= job.swept_to))
    query = select(Document.id, Document.content_id).where(walked)
    reached = {*content_ids}
    for before, step in [*pairwise((None, *way))][::-1]:
        if step is not None and step.template is not None:
            of_spec = select(Prompt.document_id).where(Prompt.spec_id == step.spec_id)
            ids = {row.document_id for row in transaction.probe(of_spec, Prompt.content_id, reached)}
            found = transaction.probe(query, Document.id, ids)
            return {row.id: row.content_id for row in found}
        if before is not None:
            put_out = select(OutcomeRow.content_id).where(OutcomeRow.spec_id.in_(before.spec_ids))
            reached = {row.content_id for row in transaction.probe(put_out, OutcomeRow.output_id, reached)}
    found = transaction.probe(query, Document.content_id, reached)
    return {row.id: row.content_id for row in found}
