"""A fingerprint of a job's results, to see whether they changed: one aggregate for each step, without texts."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Document, Job
from docmill.storage.core.transaction import Transaction
from docmill.storage.steps import lineage
from docmill.storage.steps.jobs import require
from docmill.storage.steps.lineage import visible
from docmill.storage.steps.steps import OpenStep, of_job, way_to, way_to_named


@dataclass(frozen=True)
class Mark:
    """A step's results at one moment: how many documents are done, when the latest was, and the last of them.

    An outcome that is done is never overwritten. So results change by more (a failed text that was tried again),
    by fewer (what was removed or dropped), or by later ones (what was dropped and computed again).
    """

    done: int
    latest: float | None
    last_document: int | None


def marks(database: Database, job_id: int, step: str | None = None) -> dict[str, Mark]:
    """By name the mark of a step, or of all. Raises NoSuchJob and NoSuchStep."""
    job = require(database, job_id)
    with database.read() as transaction:
        steps = of_job(transaction, job_id)
        wanted = [way_to(steps, one) for one in steps] if step is None else [way_to_named(steps, step)]
        return {way[-1].name: _mark(transaction, job, way) for way in wanted}


def _mark(transaction: Transaction, job: Job, way: list[OpenStep]) -> Mark:
    query, outcomes = lineage.joined(select().select_from(Document), way)
    last = outcomes[way[-1].seq].c
    query = query.add_columns(func.count(), func.max(last.created_at), func.max(Document.id))
    return Mark(*transaction.execute(query.where(visible(job), last.status == "done")).one())
