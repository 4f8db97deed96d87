"""Corpora that can be searched: those that a job embeds."""

from __future__ import annotations

from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Corpus, Job, SpecRow, Step
from docmill.storage.outputs.output_types import VECTOR

MOST = 200


def list_searchable(database: Database) -> list[str]:
    """Return the names of corpora with an embed job, in order."""
    kinds = [kind.name for kind in database.kinds.values() if kind.output is VECTOR]
    embeds = (
        select(Job.id)
        .join(Step, Step.job_id == Job.id)
        .join(SpecRow, SpecRow.id == Step.spec_id)
        .where(Job.corpus_id == Corpus.id, SpecRow.kind.in_(kinds))
        .exists()
    )
    with database.read() as transaction:
        return list(transaction.scalars(select(Corpus.name).where(embeds).order_by(Corpus.name).limit(MOST)))
