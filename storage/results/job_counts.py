"""Count the results of a job by flag, by escalation and by runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import and_, func, not_, or_, select

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import count_rows, pages
from docmill.storage.core.schema import Document, Job, Runtime, Shard
from docmill.storage.core.specs import Spec
from docmill.storage.core.transaction import Transaction
from docmill.storage.results.status import JobStatus
from docmill.storage.steps import lineage
from docmill.storage.steps.choosing import as_text, is_read, selects
from docmill.storage.steps.conditions import Doubt, flag_name, is_doubtful
from docmill.storage.steps.jobs import require
from docmill.storage.steps.lineage import visible
from docmill.storage.steps.steps import OpenStep, find_way, read_steps

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


def runtimes(database: Database, job_id: int) -> list[RuntimeUse]:
    """Return the runtimes that computed the results of each step, most documents first. Raises NotFound."""
    job = require(database, job_id)
    uses: list[RuntimeUse] = []
    with database.read() as transaction:
        steps = read_steps(transaction, job_id)
        for step in steps:
            query, outcome = lineage.select_done(job, find_way(steps, step))
            counted = (
                query.add_columns(outcome.runtime_id, func.count().label("documents"))
                .where(outcome.runtime_id.is_not(None))
                .group_by(outcome.runtime_id)
            ).subquery()
            rows = transaction.execute(
                select(Runtime.device, Runtime.precision, Runtime.backend, Runtime.versions, counted.c.documents)
                .join(counted, counted.c.runtime_id == Runtime.id)
                .order_by(counted.c.documents.desc(), Runtime.id)
            )
            uses += [RuntimeUse(step.name, *row) for row in rows]
    return uses


def finished_shards(database: Database, job_id: int) -> Iterator[tuple[str, float, float]]:
    """Yield (worker's id, start, end) of each finished shard of a job, page by page. Times are seconds since 1970."""
    query = select(Shard.id, Shard.owner, Shard.started_at, Shard.finished_at).where(
        Shard.job_id == job_id,
        Shard.state == "done",
        Shard.started_at.is_not(None),
        Shard.finished_at.is_not(None),
        Shard.contents != b"",  # else it has the sums of shards that were folded
    )
    for page in pages(database, query, Shard.id, PAGE):
        for row in page:
            yield row.owner or "", row.started_at, row.finished_at


_NONE = "[]"


@dataclass(frozen=True)
class FlagCounts:
    """Numbers of a step's results: how many are `doubtful`, and how many carry each flag.

    `not_selected` documents have an output of the step before that the step's condition on results leaves out. If the
    step leaves out documents (`storage.steps.conditions`), it counts these.
    """

    doubtful: int
    by_flag: Counter[str]
    not_selected: int = 0


def count_flags(database: Database, job_id: int) -> dict[str, FlagCounts]:
    """Return the counts of each step of a job, by its name. Raises NotFound.

    Each step is one aggregate without texts.
    """
    job = require(database, job_id)
    with database.read() as transaction:
        steps = read_steps(transaction, job_id)
        return {step.name: _counts(transaction, job, find_way(steps, step)) for step in steps}


def _counts(transaction: Transaction, job: Job, way: list[OpenStep]) -> FlagCounts:
    query, outcome = lineage.select_done(job, way)
    flags = as_text(Document.flags), as_text(outcome.flags)
    groups = transaction.execute(
        query.add_columns(flags[0].label("of_document"), flags[1].label("of_output"), func.count().label("n"))
        .where(or_(*(column != _NONE for column in flags)))
        .group_by(*flags)
    )
    doubtful, by_flag = 0, Counter[str]()
    for group in groups:
        carried = {
            flag_name(flag) for written in (group.of_document, group.of_output) for flag in orjson.loads(written)
        }
        doubtful += group.n if is_doubtful(carried) else 0
        by_flag.update(dict.fromkeys(carried, group.n))
    return FlagCounts(doubtful, by_flag, _not_selected(transaction, job, way))


def _not_selected(transaction: Transaction, job: Job, way: list[OpenStep]) -> int:
    flagged = way[-1].flagged
    if (name := way[-1].leaves_out) is not None:
        return count_rows(transaction, Document, and_(visible(job), not_(is_read(name))))
    if flagged is None:
        return 0
    query, outcomes = lineage.join_outcomes(select(func.count()).select_from(Document), way[:-1])
    before = outcomes[way[-2].seq]
    not_met = not_(selects(flagged, before))
    return transaction.scalar(query.where(visible(job), before.c.status == "done", not_met)) or 0


@dataclass(frozen=True)
class Escalated:
    """The escalation of a step from the spec `first` to `spec`.

    `texts` of the step's texts were doubted, and the better model failed on `failed` of these. `documents` have a
    result, and `won` of these have the better model's.
    """

    first: Spec
    spec: Spec
    doubt: Doubt
    texts: int
    of: int
    failed: int
    pending: int
    documents: int
    won: int

    @property
    def share(self) -> float:
        """The share of the texts that were doubted."""
        return self.texts / self.of if self.of else 0.0


def count_escalated(database: Database, status: JobStatus) -> dict[str, Escalated]:
    """Return the escalations of a job by the names of their steps. Raises NotFound."""
    job = require(database, status.id)
    counts = {}
    with database.read() as transaction:
        steps = read_steps(transaction, job.id)
        for step, of_step in zip(steps, status.steps, strict=True):
            if step.escalation is None or (again := of_step.escalated) is None:
                continue
            query, result = lineage.select_done(job, find_way(steps, step))
            by_spec = query.add_columns(result.spec_id, func.count().label("n")).group_by(result.spec_id)
            documents = {row.spec_id: row.n for row in transaction.execute(by_spec)}
            counts[step.name] = Escalated(
                first=of_step.spec,
                spec=again.spec,
                doubt=step.escalation.doubt,
                texts=again.texts,
                of=of_step.texts,
                failed=again.failed,
                pending=again.pending,
                documents=sum(documents.values()),
                won=documents.get(step.escalation.spec_id, 0),
            )
    return counts
