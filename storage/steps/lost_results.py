"""Count results and documents of a finished job that were removed since."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import and_, func, or_, select, true

from docmill.storage.core.schema import Document, Job, Prompt, SpecRow
from docmill.storage.core.transaction import Transaction
from docmill.storage.steps import choosing, lineage
from docmill.storage.steps.first_conditions import is_first
from docmill.storage.steps.flag_conditions import selects
from docmill.storage.steps.lineage import visible
from docmill.storage.steps.steps import OpenStep


def may_be_lost(transaction: Transaction, job: Job, steps: Sequence[OpenStep]) -> bool:
    """Return whether results of a job's specs were removed after it was done (its row); one look at its specs."""
    if job.state != "done":
        return False
    ids = {spec_id for step in steps for spec_id in step.spec_ids}
    since = and_(SpecRow.id.in_(ids), SpecRow.dropped_at >= job.finished_at)
    return transaction.scalar(select(SpecRow.id).where(since).limit(1)) is not None


def count_removed(transaction: Transaction, job: Job) -> int:
    """Return the number of documents of a finished job (its row) whose version was removed since."""
    left = transaction.scalar(select(func.count()).select_from(Document).where(visible(job))) or 0
    return max(0, job.n_documents - left)


def count_lost(transaction: Transaction, job: Job, steps: Sequence[OpenStep]) -> int:
    """Return the number of documents of a finished job (its row) that lack the outcome of one of its steps by now.

    Failed and skipped documents have one. A step has lost nothing where the step before put nothing out for it.
    """
    query: Any = select(func.count()).select_from(Document)
    outcomes: dict[int, Any] = {}
    lost = []
    for step in steps:
        before = None if step.input_step is None else outcomes[step.input_step]
        given = read = lineage.own_of(step) if before is None else lineage.read_of(step, before)
        if step.template is not None:
            prompt = Prompt.__table__.alias()
            of_document = and_(prompt.c.spec_id == step.spec_id, prompt.c.document_id == Document.id)
            query = query.outerjoin(prompt, and_(of_document, prompt.c.text_id == given))
            read = prompt.c.content_id
        query, found = choosing.joined(query, step, read, outer=True)
        outcomes[step.seq] = found.result
        had = (is_first() if step.keep_first else true()) if before is None else before.c.status == "done"
        if before is not None and step.flagged is not None:
            had = and_(had, selects(step.flagged, before))
        lost.append(and_(or_(found.result.c.status.is_(None), found.waits), had))
    return transaction.scalar(query.where(visible(job), or_(*lost))) or 0
