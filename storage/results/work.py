"""Read what a job's results cost, and what computed them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import pages
from docmill.storage.core.schema import Document, Runtime, Shard
from docmill.storage.steps import lineage
from docmill.storage.steps.jobs import require
from docmill.storage.steps.lineage import visible
from docmill.storage.steps.steps import of_job, way_to

PAGE = 5_000


@dataclass(frozen=True)
class RuntimeUse:
    """The number of `documents` whose result of a step one device, precision and backend computed."""

    step: str
    device: str
    precision: str
    backend: str
    versions: Mapping[str, Any]
    documents: int


@dataclass(frozen=True)
class FinishedShard:
    """A finished shard of a job: who held it when (seconds since 1970), and what came of it."""

    owner: str
    started_at: float
    finished_at: float
    texts: int
    tokens: int


def runtimes(database: Database, job_id: int) -> list[RuntimeUse]:
    """Return what computed the results of each step, most documents first. Raises NoSuchJob."""
    job = require(database, job_id)
    found: list[RuntimeUse] = []
    with database.read() as transaction:
        steps = of_job(transaction, job_id)
        for step in steps:
            query, outcomes = lineage.joined(select().select_from(Document), way_to(steps, step))
            outcome = outcomes[step.seq].c
            counted = (
                query.add_columns(outcome.runtime_id, func.count().label("documents"))
                .where(visible(job), outcome.status == "done", outcome.runtime_id.is_not(None))
                .group_by(outcome.runtime_id)
            ).subquery()
            rows = transaction.execute(
                select(Runtime.device, Runtime.precision, Runtime.backend, Runtime.versions, counted.c.documents)
                .join(counted, counted.c.runtime_id == Runtime.id)
                .order_by(counted.c.documents.desc(), Runtime.id)
            )
            found += [RuntimeUse(step.name, *row) for row in rows]
    return found


def finished_shards(database: Database, job_id: int) -> Iterator[FinishedShard]:
    """Yield the finished shards of a job, page by page, in the order of their numbers."""
    query = select(
        Shard.id,
        Shard.owner,
        Shard.started_at,
        Shard.finished_at,
        (Shard.n_done + Shard.n_failed + Shard.n_skipped).label("texts"),
        (Shard.tokens_in + Shard.tokens_out).label("tokens"),
    ).where(
        Shard.job_id == job_id,
        Shard.state == "done",
        Shard.started_at.is_not(None),
        Shard.finished_at.is_not(None),
        Shard.contents != b"",  # else it has the sums of shards that were folded
    )
    for page in pages(database, query, Shard.id, PAGE, after=0):
        for row in page:
            yield FinishedShard(row.owner or "", row.started_at, row.finished_at, row.texts, row.tokens)
