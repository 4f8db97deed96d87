"""Apply the rules of retention within a budget, and count the rows that they would remove."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, func, or_, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import (
    Contender,
    Job,
    OutcomeRow,
    PipelineRun,
    Refusal,
    Rejection,
    Shard,
    StepText,
)
from docmill.storage.core.tables import db_now
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion import aged_results, folding, gc, retention, versions
from docmill.storage.deletion.ages import Ages
from docmill.storage.deletion.budget import Budget


@dataclass(frozen=True)
class Count:
    """The number of rows of a table that a rule removes."""

    rule: str
    table: str
    rows: int


@dataclass(frozen=True)
class Swept:
    """The rows that a round removed, by rule. A round that is not `complete` used up its budget: more may be left."""

    removed: dict[str, int]
    complete: bool


def apply(database: Database, ages: Ages, budget: Budget | None = None) -> Swept:
    """Remove what each rule says, a page per transaction, until the budget is spent.

    The next round continues an interrupted one, and two at once do no harm.
    """
    budget = budget or Budget()
    removed: dict[str, int] = {}
    for rule, act in _RULES:
        age_s = ages.get(rule)
        if age_s is not None and not budget.is_spent():
            removed[rule] = removed.get(rule, 0) + act(database, age_s, budget)
    if not budget.is_spent():
        collected = gc.collect(database, budget)
        removed["texts"] = collected.contents + collected.outcomes
    return Swept(removed, complete=not budget.is_spent())


def _versions(database: Database, age_s: float, budget: Budget) -> int:
    found = versions.remove(database, age_s, budget)
    return found.documents + found.contents + found.outcomes + found.ingests


def _results(database: Database, age_s: float, budget: Budget) -> int:
    found = aged_results.drop_unneeded(database, age_s, budget)
    return found.contents + found.outcomes


_RULES: tuple[tuple[str, Callable[[Database, float, Budget], int]], ...] = (
    *retention.SWEPT,
    ("shards", folding.fold_shards),
    ("versions", _versions),
    ("results", _results),
)


def count(database: Database, ages: Ages) -> list[Count]:
    """Return the rows that each rule would remove now, by table.

    Texts that only removed results need are not counted. A rule counts as if the rules before it removed nothing.
    """
    found = []
    for rule, age_s in ages.of.items():
        with database.read() as transaction:
            queries = [*_queries(transaction, rule, age_s)]
            rows = [(table, int(transaction.scalar(query) or 0)) for table, query in queries]
        if rule == "versions":
            old = versions.count(database, age_s)
            rows = [("document", old.documents), ("ingest", old.readings)]
        found += [Count(rule, table, n) for table, n in rows]
    return found


def _queries(transaction: Transaction, rule: str, age_s: float) -> Iterator[tuple[str, Select[Any]]]:
    """Yield the tables that a rule removes from, each with a query for the number of rows."""
    ended = retention.ended_before(age_s)
    if rule == "runs":
        runs = retention.old_runs(age_s)
        jobs = select(PipelineRun.job_id).where(PipelineRun.id.in_(runs))
        yield "pipeline_run", _n(PipelineRun).where(or_(PipelineRun.id.in_(runs), retention.runs_without_job(age_s)))
        yield "job", _n(Job).where(Job.id.in_(jobs))
        yield "shard", _n(Shard).where(Shard.job_id.in_(jobs))
    elif rule == "step_texts":
        jobs = select(Job.id).where(retention.jobs_with_needless_texts(age_s))
        yield "step_text", _n(StepText).where(StepText.job_id.in_(jobs))
    elif rule == "rejections":
        for table in (Rejection, Contender):
            yield table.__tablename__, _n(table).where(table.ingest_id.in_(select(Job.ingest_id).where(ended)))
    elif rule == "refusals":
        yield "refusal", _n(Refusal).where(Refusal.refused_at < db_now() - age_s)
    elif rule == "shards":
        # Of each step with finished shards one row is left; a folded row goes into it.
        steps = select(Shard.job_id, Shard.step).where(folding.is_finished())
        of_ended = Shard.job_id.in_(select(Job.id).where(ended))
        goes = or_(folding.is_finished(), and_(Shard.state == "done", Shard.contents == b""))
        groups = steps.where(of_ended).distinct().subquery()
        rows = (
            _n(Shard)
            .join(groups, and_(groups.c.job_id == Shard.job_id, groups.c.step == Shard.step))
            .where(goes)
            .scalar_subquery()
        )
        yield "shard", select(rows - select(func.count()).select_from(groups).scalar_subquery())
    elif rule == "results":
        yield "outcome", _n(OutcomeRow).where(aged_results.are_droppable(transaction, age_s))
    else:
        assert rule == "versions", rule  # counted by `versions.count`


def _n(table: Any) -> Select[Any]:
    return select(func.count()).select_from(table)
