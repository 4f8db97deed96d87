"""Count the results of a job that carry each flag."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import orjson
from sqlalchemy import func, not_, or_, select

from docmill.storage.core.database import Database
from docmill.storage.core.flags import doubtful, name_of
from docmill.storage.core.schema import Document, Job
from docmill.storage.core.transaction import Transaction
from docmill.storage.steps import lineage
from docmill.storage.steps.first_conditions import is_first
from docmill.storage.steps.flag_conditions import as_text, selects
from docmill.storage.steps.jobs import require
from docmill.storage.steps.lineage import visible
from docmill.storage.steps.steps import OpenStep, of_job, way_to

_NONE = "[]"


@dataclass(frozen=True)
class FlagCounts:
    """Numbers of a step's results: how many are `doubtful`, and how many carry each flag.

    `not_selected` documents have an output of the step before that the step's condition on results leaves out. If the
    step keeps only first documents, they are near duplicates of these.
    """

    doubtful: int
    by_flag: Counter[str]
    not_selected: int = 0

    def __add__(self, other: FlagCounts) -> FlagCounts:
        doubtful, by_flag = self.doubtful + other.doubtful, self.by_flag + other.by_flag
        return FlagCounts(doubtful, by_flag, self.not_selected + other.not_selected)


NO_FLAGS = FlagCounts(0, Counter())


def count_flags(database: Database, job_id: int) -> dict[str, FlagCounts]:
    """Return the counts of each step of a job, by its name. Raises NoSuchJob.

    Each step is one aggregate without texts.
    """
    job = require(database, job_id)
    with database.read() as transaction:
        steps = of_job(transaction, job_id)
        return {step.name: _counts(transaction, job, way_to(steps, step)) for step in steps}


def _counts(transaction: Transaction, job: Job, way: list[OpenStep]) -> FlagCounts:
    query, outcomes = lineage.joined(select().select_from(Document), way)
    outcome = outcomes[way[-1].seq].c
    flags = as_text(Document.flags), as_text(outcome.flags)
    groups = transaction.execute(
        query.add_columns(flags[0].label("of_document"), flags[1].label("of_output"), func.count().label("n"))
        .where(visible(job), outcome.status == "done", or_(*(one != _NONE for one in flags)))
        .group_by(*flags)
    )
    total = NO_FLAGS
    for group in groups:
        carried = {
            name_of(flag) for written in (group.of_document, group.of_output) for flag in orjson.loads(written)
        }
        by_flag = Counter(dict.fromkeys(carried, group.n))
        total += FlagCounts(group.n if doubtful(carried) else 0, by_flag)
    return replace(total, not_selected=_not_selected(transaction, job, way))


def _not_selected(transaction: Transaction, job: Job, way: list[OpenStep]) -> int:
    flagged = way[-1].flagged
    if way[-1].keep_first:
        repeats = select(func.count()).select_from(Document).where(visible(job), not_(is_first()))
        return transaction.scalar(repeats) or 0
    if flagged is None:
        return 0
    query, outcomes = lineage.joined(select(func.count()).select_from(Document), way[:-1])
    before = outcomes[way[-2].seq]
    left_out = not_(selects(flagged, before))
    return transaction.scalar(query.where(visible(job), before.c.status == "done", left_out)) or 0
