"""Join documents to their outcomes at a job's steps, page by page in one query, and trace outcomes to documents.

A step with a template computes a prompt for each document. Neither a document nor a text ever changes, so the prompt
of a document and a text under a spec is rendered once, in the transaction that plans it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVarTuple

from sqlalchemy import ColumnElement, FromClause, Select, and_, case, func, or_, select

from docmill.storage.core import lookups
from docmill.storage.core.lookups import is_current_document, unseen
from docmill.storage.core.schema import Document, Job, OutcomeRow, Prompt, SpecRow
from docmill.storage.core.transaction import Columns, Transaction
from docmill.storage.steps import choosing
from docmill.storage.steps.choosing import OutcomeColumns, compared_by, is_read, select_read, selects
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


def visible(job: Job, *, sought: bool = False) -> ColumnElement[bool]:
    """Return the condition for a document to belong to a job (its row).

    The job's documents are its corpus as it stood when the source had been read; until then, as it stands. `sought`
    is for queries that look up documents by their ids or contents (see `lookups.unseen`).
    """
    in_corpus = Document.corpus_id == (unseen(job.corpus_id) if sought else job.corpus_id)
    if job.last_document is None:
        return and_(in_corpus, is_current_document())
    return and_(
        in_corpus,
        ~Document.gone,
        Document.id <= job.last_document,
        or_(Document.superseded_by.is_(None), Document.superseded_by > job.last_document),
    )


def read_outcomes(
    transaction: Transaction,
    steps: Sequence[OpenStep],
    own: Mapping[int, int],
    columns: OutcomeColumns = (),
) -> dict[int, dict[int, Any]]:
    """Return the outcomes of documents at each of these steps: {step: {document: row}}.

    `own` has the documents' contents, and `steps` with each step those that lead to it. A row has these columns of
    the outcome, `content_id` and `output_id`; it is looked up by itself (see `Transaction.probe`).
    """
    by_step: dict[int, dict[int, Any]] = {}
    for step in steps:
        if step.flagged is not None:
            columns = choosing.with_columns(columns, compared_by(step.flagged))
    for step in steps:
        computed = read_prompts(transaction, step, _select_inputs(transaction, step, own, by_step))
        wanted: OutcomeColumns = (OutcomeRow.content_id, OutcomeRow.output_id, *columns)
        by_content = choosing.read_results(transaction, step, {*computed.values()}, wanted)
        by_step[step.seq] = {
            document_id: by_content[content_id]
            for document_id, content_id in computed.items()
            if content_id in by_content
        }
    return by_step


def _select_inputs(
    transaction: Transaction,
    step: OpenStep,
    own: Mapping[int, int],
    outcomes_by_step: Mapping[int, Mapping[int, Any]],
) -> Mapping[int, int]:
    if step.input_step is None:
        return select_read(transaction, step.leaves_out, own)
    before = outcomes_by_step[step.input_step]
    return {document_id: row.output_id for document_id, row in before.items() if leads_to(row, step)}


def leads_to(before: Any, step: OpenStep) -> bool:
    """Return True if a step reads the output of this outcome of the step before, as `read_outcomes` has it."""
    return before.output_id is not None and (step.flagged is None or step.flagged.holds(before))


def find_unmet_condition(way: Sequence[OpenStep], outcomes: Mapping[int, Any]) -> str | None:
    """Return the first condition of a path that a document's results do not meet, as a phrase after "It is".

    None if they meet all of them. `outcomes` are the document's by step, as `read_outcomes` has them.
    """
    for before, step in pairwise(way):
        outcome = outcomes.get(before.seq)
        if outcome is None or outcome.status != "done" or step.flagged is None:
            continue
        if not step.flagged.holds(outcome):
            return f"{'flagged' if step.flagged.lacking else 'not flagged'} {' or '.join(step.flagged.parts)}"
    return None


def read_inputs(transaction: Transaction, way: Sequence[OpenStep], own: Mapping[int, int]) -> Mapping[int, int]:
    """Return by document the input of the last step of a path: the document's content, or the output before it.

    `own` has the documents' contents. Documents without an input yet are left out.
    """
    columns = () if way[-1].flagged is None else compared_by(way[-1].flagged)
    return _select_inputs(transaction, way[-1], own, read_outcomes(transaction, way[:-1], own, columns))


def read_contents(transaction: Transaction, way: Sequence[OpenStep], own: Mapping[int, int]) -> Mapping[int, int]:
    """Return by document the content that the last step of a path computes: its input, or the prompt around it."""
    return read_prompts(transaction, way[-1], read_inputs(transaction, way, own))


def join_outcomes(
    query: Select[*Ts], steps: Sequence[OpenStep], *, outer: bool = False
) -> tuple[Select[*Ts], dict[int, FromClause]]:
    """Return a query over documents joined to their outcomes at these steps, and the outcomes' tables by step.

    `steps` has with each step those that lead to it. `outer` keeps the documents without an outcome.
    """
    query, joined = _join(query, steps, outer=outer)
    return query, {seq: result for seq, (result, _) in joined.items()}


def _join(
    query: Select[*Ts], steps: Sequence[OpenStep], *, outer: bool
) -> tuple[Select[*Ts], dict[int, tuple[FromClause, ColumnElement[bool]]]]:
    """Join outcomes as `join_outcomes` does. Return each table with the condition to wait for an escalation."""
    joined: dict[int, tuple[FromClause, ColumnElement[bool]]] = {}
    for step in steps:
        own = own_of(step) if step.input_step is None else read_of(step, joined[step.input_step][0])
        query, computed = join_prompts(query, step, own, outer=outer)
        query, result, waits = choosing.join_results(query, step, computed, outer=outer)
        joined[step.seq] = result, waits
    return query, joined


def select_done(job: Job, way: Sequence[OpenStep]) -> tuple[Select[*tuple[Any, ...]], Any]:
    """Return a query, without columns, for a job's documents that are done at the last step of a path.

    Also return the columns of their outcomes there. `way` is the path, and `job` a row.
    """
    query, outcomes = join_outcomes(select().select_from(Document), way)
    outcome = outcomes[way[-1].seq].c
    return query.where(visible(job), outcome.status == "done"), outcome


def own_of(step: OpenStep) -> ColumnElement[Any]:
    """Return the column of the documents that a step reads: their content, NULL for documents that it leaves out."""
    if step.leaves_out is None:
        return Document.content_id
    return case((is_read(step.leaves_out), Document.content_id))


def read_of(step: OpenStep, before: FromClause) -> ColumnElement[Any]:
    """Return the column of the step before that a step reads: its output, NULL where the condition does not hold."""
    if step.flagged is None:
        return before.c.output_id
    return case((selects(step.flagged, before), before.c.output_id))


def find_documents(
    transaction: Transaction, job_id: int, way: Sequence[OpenStep], content_ids: Collection[int]
) -> dict[int, int]:
    """Return the traversed documents, with their contents, for which the last step of a path may read these contents.

    Some of them may read other contents: a prompt on the path may come from any job.
    """
    job = Job.of(transaction.execute(select(Job).where(Job.id == job_id)).one())
    walked = and_(visible(job, sought=True), or_(Document.ingest_id == job.ingest_id, Document.id <= job.swept_to))
    query = select(Document.id, Document.content_id).where(walked)
    reached = {*content_ids}
    for before, step in [*pairwise((None, *way))][::-1]:
        if step is not None and step.template is not None:
            of_spec = select(Prompt.document_id).where(Prompt.spec_id == unseen(step.spec_id))
            ids = {row.document_id for row in transaction.probe(of_spec, Prompt.content_id, reached)}
            rows = transaction.probe(query, Document.id, ids)
            return {row.id: row.content_id for row in rows}
        if before is not None:
            put_out = select(OutcomeRow.content_id).where(OutcomeRow.spec_id.in_([*map(unseen, before.spec_ids)]))
            reached = {row.content_id for row in transaction.probe(put_out, OutcomeRow.output_id, reached)}
    rows = transaction.probe(query, Document.content_id, reached)
    return {row.id: row.content_id for row in rows}


def read_prompts(transaction: Transaction, step: OpenStep, inputs: Mapping[int, int]) -> Mapping[int, int]:
    """Return {document: prompt's content} of a step for documents and the texts that it reads of them.

    Documents whose prompt was not rendered yet are left out.
    """
    if step.template is None:
        return inputs
    query = select(Prompt.document_id, Prompt.text_id, Prompt.content_id).where(Prompt.spec_id == step.spec_id)
    rows = transaction.probe(query, Prompt.document_id, [*inputs])
    return {row.document_id: row.content_id for row in rows if row.text_id == inputs[row.document_id]}


def join_prompts(
    query: Select[*Ts], step: OpenStep, text_id: ColumnElement[int], *, outer: bool
) -> tuple[Select[*Ts], ColumnElement[int]]:
    """Return a query over documents joined to the prompts of a step, and its column of the contents to compute.

    `text_id` is the column of the texts that the step reads. `outer` keeps the documents whose prompt was not
    rendered yet.
    """
    if step.template is None:
        return query, text_id
    prompt = Prompt.__table__.alias(f"prompt_{step.seq}")
    of_step = and_(prompt.c.document_id == Document.id, prompt.c.spec_id == step.spec_id, prompt.c.text_id == text_id)
    return query.join(prompt, of_step, isouter=outer), prompt.c.content_id


def render_prompts(
    transaction: Transaction, step: OpenStep, inputs: Mapping[int, int]
) -> tuple[list[int], dict[int, int]]:
    """Store the prompts of documents around the texts that the step reads of them.

    Return their contents, each once, and the lengths in characters of the new ones. Call `keep_contents` before.
    """
    assert step.template is not None
    known = read_prompts(transaction, step, inputs)
    lacking = [document_id for document_id in inputs if document_id not in known]
    written = lookups.read_texts(transaction, {inputs[document_id] for document_id in lacking})
    query = select(Document.id, Document.meta)
    texts, hashes = {}, {}
    for row in transaction.probe(query, Document.id, lacking):
        prompt = step.template.render(written[inputs[row.id]], row.meta)
        hashes[row.id] = hashlib.sha256(prompt.encode()).digest()
        texts[hashes[row.id]] = prompt
    if not texts:
        return sorted({*known.values()}), {}
    stored, fresh = lookups.store_contents(transaction, texts)
    made = {document_id: stored[sha256] for document_id, sha256 in sorted(hashes.items())}
    columns: Columns = {
        "spec_id": [step.spec_id] * len(made),
        "document_id": [*made],
        "text_id": [inputs[document_id] for document_id in made],
        "content_id": [*made.values()],
    }
    transaction.insert_missing(Prompt, columns)  # another job may render the same ones, to the same contents
    return sorted({*known.values(), *made.values()}), fresh


def may_be_lost(transaction: Transaction, job: Job, steps: Sequence[OpenStep]) -> bool:
    """Return True if results of a job's specs, or their documents, were removed since the job (its row) was done."""
    if job.state != "done":
        return False
    ids = {spec_id for step in steps for spec_id in step.spec_ids}
    since = and_(SpecRow.id.in_(ids), SpecRow.dropped_at >= job.finished_at)
    return transaction.scalar(select(SpecRow.id).where(since).limit(1)) is not None


def count_removed(transaction: Transaction, job: Job) -> int:
    """Return the number of documents of an ended job (its row) whose version was removed since."""
    return max(0, job.n_documents - lookups.count_rows(transaction, Document, visible(job)))


def count_lost(transaction: Transaction, job: Job, steps: Sequence[OpenStep]) -> int:
    """Return the number of documents of a finished job (its row) that lack the outcome of one of its steps by now.

    Failed and skipped documents have one. A document without an output of the step before lacks nothing.
    """
    query, joined = _join(select(func.count()).select_from(Document), steps, outer=True)
    lost = []
    for step in steps:
        result, waits = joined[step.seq]
        before = None if step.input_step is None else joined[step.input_step][0]
        had = is_read(step.leaves_out) if before is None else before.c.status == "done"
        if before is not None and step.flagged is not None:
            had = and_(had, selects(step.flagged, before))
        lost.append(and_(or_(result.c.status.is_(None), waits), had))
    return transaction.scalar(query.where(visible(job), or_(*lost))) or 0
