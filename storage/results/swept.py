"""Rows of an ended job that were removed since, and the rules of retention that removed them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import and_, select

from docmill.storage.core.schema import Ingest, Job, Rejection, SpecRow
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion.ages import RESULTS
from docmill.storage.steps.lost_results import count_lost, count_removed, may_be_lost
from docmill.storage.steps.steps import OpenStep


@dataclass(frozen=True)
class RemovedSince:
    """Losses of a job that is done.

    `lost` counts documents whose results were removed, and `documents` those that were removed with results. `rules`
    are the rules of retention that removed rows of the job.
    """

    lost: int
    documents: int
    rules: tuple[str, ...]


def removed_since(transaction: Transaction, job: Job, steps: Sequence[OpenStep]) -> RemovedSince:
    """Return what was removed of a job (its row)."""
    lost = documents = 0
    if may_be_lost(transaction, job, steps):
        lost, documents = count_lost(transaction, job, steps), count_removed(transaction, job)
    by_rule = {
        "step_texts": job.forgotten_at is not None,
        "shards": job.folded_at is not None,
        "rejections": _lacks_rejections(transaction, job),
        RESULTS: lost > 0 and _dropped_by_rule(transaction, steps),
    }
    return RemovedSince(lost, documents, tuple(rule for rule, did in by_rule.items() if did))


def _lacks_rejections(transaction: Transaction, job: Job) -> bool:
    counted = transaction.scalar(select(Ingest.n_rejected).where(Ingest.id == job.ingest_id))
    if not counted:
        return False
    rejected = and_(Rejection.ingest_id == job.ingest_id, ~Rejection.superseded)
    return transaction.scalar(select(Rejection.place).where(rejected).limit(1)) is None


def _dropped_by_rule(transaction: Transaction, steps: Sequence[OpenStep]) -> bool:
    ids = {spec_id for step in steps for spec_id in step.spec_ids}
    by_rule = select(SpecRow.id).where(SpecRow.id.in_(ids), SpecRow.dropped_by == RESULTS).limit(1)
    return transaction.scalar(by_rule) is not None
