"""The rules of retention: rows that go by their age, and how many each rule would remove.

Documents, texts and results that something needs stay: only a user removes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, delete, func, or_, select, update

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import count_rows, delete_page
from docmill.storage.core.schema import (
    SUMMED,
    Base,
    Contender,
    Job,
    OutcomeRow,
    PipelineRun,
    RejectionRow,
    Shard,
    ShardCount,
    SpecRow,
    Step,
    StepText,
    db_now,
)
from docmill.storage.core.transaction import Transaction, columns_of
from docmill.storage.deletion import gc, needed, removal
from docmill.storage.deletion.paging import RemovalBudget, Removed, remove_all
from docmill.storage.errors import RightMissing
from docmill.storage.features import load_by_name
from docmill.storage.pipelines.pipelines import holds_job
from docmill.storage.steps.jobs import UNFINISHED
from docmill.storage.steps.sharding import UNTOUCHED

PAGE = 5_000  # rows deleted in one transaction
FOLDED_PAGE = 1_000  # shards folded in one transaction
SETTLED_S = 3_600.0  # a reading may still add documents to a job that has just ended

Ages = Mapping[str, float]  # the age in seconds from which a rule removes; others remove nothing


def sweep(database: Database, ages: Ages) -> None:
    """Apply the rules of upkeep. Rows that this database user may not delete stay."""
    for rule in every_rule():
        if rule.is_upkeep and rule.name in ages:
            with suppress(RightMissing):
                rule.remove(database, ages[rule.name], RemovalBudget())


def apply(database: Database, ages: Ages, budget: RemovalBudget | None = None) -> tuple[dict[str, int], bool]:
    """Apply each rule, and remove unneeded texts, until the budget is spent.

    Return the number of removed rows by rule, and False if the budget was used up, so that more may be left.
    """
    budget = budget or RemovalBudget()
    removed: dict[str, int] = {}
    for rule in every_rule():
        if rule.name in ages and not budget.is_spent():
            removed[rule.name] = rule.remove(database, ages[rule.name], budget).rows
    if not budget.is_spent():
        removed["texts"] = gc.collect(database, budget).rows
    return removed, not budget.is_spent()


def count(database: Database, ages: Ages) -> dict[str, dict[str, int]]:
    """Return the rows that each rule would remove now, by rule and table.

    Texts that only removed results need are not counted. A rule counts as if the rules before it removed nothing.
    """
    with database.read() as transaction:
        return {
            rule.name: dict(rule.count(transaction, ages[rule.name])) for rule in every_rule() if rule.name in ages
        }


def ended_before(age_s: float) -> ColumnElement[bool]:
    """Return the condition for a job that ended longer ago."""
    return and_(Job.state.not_in(UNFINISHED), Job.finished_at < db_now() - age_s)


def _remove_each(
    database: Database,
    query: Select[int],
    remove: Callable[[int, int, Transaction], Removed | None],
    budget: RemovalBudget | None,
    size: int = PAGE,
) -> Removed:
    """Call `remove` for each id of a query with a number of rows, until it returns None."""
    ids = database.values(query)
    return sum((remove_all(database, partial(remove, key), size, budget) for key in ids), Removed())


def forget_step_texts(database: Database, older_than_s: float, budget: RemovalBudget | None = None) -> Removed:
    """Delete the records of texts that the steps of ended jobs had met.

    A retry needs them. So a job with failures keeps them for the whole time, and other jobs for an hour.
    """
    has_texts = select(StepText.step).where(StepText.job_id == Job.id).exists()
    jobs = select(Job.id).where(jobs_with_needless_texts(older_than_s), has_texts).order_by(Job.id)
    return _remove_each(database, jobs, _forget_texts, budget)


def jobs_with_needless_texts(older_than_s: float) -> ColumnElement[bool]:
    """Return the condition for a job that no retry needs, or that ended long ago, and whose results are written."""
    n_failed = func.coalesce(func.sum(ShardCount.n_failed), 0)  # a job whose texts were all known has no counts
    failed = or_(
        select(n_failed).where(ShardCount.job_id == Job.id).scalar_subquery() > 0,
        select(Step.seq).where(Step.job_id == Job.id, Step.n_prior_failed > 0).exists(),
    )
    nothing_to_retry = or_(Job.state == "cancelled", and_(Job.state == "done", ~failed))
    needless = or_(ended_before(older_than_s), and_(ended_before(SETTLED_S), nothing_to_retry))
    return and_(needless, ~holds_job())


def _forget_texts(job_id: int, size: int, transaction: Transaction) -> Removed | None:
    if not _note_forgotten(transaction, job_id):
        return None
    return _delete_page(StepText, StepText.job_id == job_id, size, transaction)


def _delete_page(
    table: type[Base], condition: ColumnElement[bool], size: int, transaction: Transaction
) -> Removed | None:
    n = delete_page(transaction, table, condition, size)
    return Removed(others=n) if n else None


def _note_forgotten(transaction: Transaction, job_id: int) -> bool:
    """Note that a job cannot be retried any more. Return False if it runs again, or is gone."""
    ended = update(Job).where(Job.id == job_id, Job.state.not_in(UNFINISHED))
    return transaction.execute(ended.values(forgotten_at=db_now())).rowcount > 0


def forget_runs(database: Database, older_than_s: float, budget: RemovalBudget | None = None) -> Removed:
    """Delete old runs of pipelines with their jobs, and old runs that have no job.

    Each pipeline keeps its last run of each state. Documents and results stay, and so do jobs without a pipeline. If
    jobs were deleted, old readings that nothing needs go, too.
    """
    removed, jobless = Removed(), runs_without_job(older_than_s)
    has_jobless = database.value(select(PipelineRun.id).where(jobless).limit(1)) is not None
    if has_jobless:
        removed = remove_all(database, partial(_delete_page, PipelineRun, jobless), PAGE, budget)
    removed += _remove_each(database, old_runs(older_than_s).order_by(PipelineRun.id), _forget_run, budget)
    if removed.jobs:
        removed += removal.remove_readings(database, older_than_s, budget)
    return removed


def runs_without_job(older_than_s: float) -> ColumnElement[bool]:
    """Return the condition for an old run that has no job, and is not the last of its pipeline and state."""
    last = select(func.max(PipelineRun.id)).group_by(PipelineRun.pipeline_id, PipelineRun.state)
    return and_(
        PipelineRun.finished_at < db_now() - older_than_s,
        PipelineRun.job_id.is_(None),
        PipelineRun.id.not_in(last),
    )


def old_runs(older_than_s: float) -> Select[int]:
    """Return a query for old runs with a job that ended long ago, without the last of each pipeline and state."""
    last = select(func.max(PipelineRun.id)).where(PipelineRun.job_id.is_not(None))
    return (
        select(PipelineRun.id)
        .join(Job, Job.id == PipelineRun.job_id)
        .where(
            PipelineRun.finished_at < db_now() - older_than_s,
            PipelineRun.id.not_in(last.group_by(PipelineRun.pipeline_id, PipelineRun.state)),
            ended_before(older_than_s),
        )
    )


def _forget_run(run_id: int, size: int, transaction: Transaction) -> Removed | None:
    """Delete the next page of rows of a run's job, and at last the run and the job."""
    transaction.keep_last_ids(Job, Shard)
    job_id = transaction.scalar(select(PipelineRun.job_id).where(PipelineRun.id == run_id))
    this = delete(PipelineRun).where(PipelineRun.id == run_id)
    others = select(PipelineRun.id).where(PipelineRun.job_id == job_id, PipelineRun.id != run_id).limit(1)
    if job_id is None or transaction.scalar(others) is not None:
        n = transaction.execute(this).rowcount
        return Removed(others=n) if n else None
    if not _note_forgotten(transaction, job_id):  # the job was retried
        return None
    ingest_id = transaction.execute(select(Job.ingest_id).where(Job.id == job_id)).scalar_one()
    of_job = ((Shard, Shard.job_id == job_id), (StepText, StepText.job_id == job_id))
    of_ingest = ((RejectionRow, RejectionRow.ingest_id == ingest_id), (Contender, Contender.ingest_id == ingest_id))
    for table, condition in (*of_job, *of_ingest):
        if n := delete_page(transaction, table, condition, size):
            return Removed(others=n)
    transaction.execute(this)
    removal.delete_jobs(transaction, [job_id])
    return Removed(others=1, jobs=1)


def forget_rejections(database: Database, older_than_s: float, budget: RemovalBudget | None = None) -> Removed:
    """Delete the rejections of readings whose job ended before. Each reading keeps their number."""
    removed = Removed()
    for table in (RejectionRow, Contender):
        has_some = select(table.ingest_id).where(table.ingest_id == Job.ingest_id).exists()
        ingests = select(Job.ingest_id).where(ended_before(older_than_s), has_some)
        removed += _remove_each(database, ingests, partial(_forget_records, table), budget)
    return removed


def _forget_records(
    table: type[RejectionRow | Contender], ingest_id: int, size: int, transaction: Transaction
) -> Removed | None:
    return _delete_page(table, table.ingest_id == ingest_id, size, transaction)


def fold_shards(database: Database, older_than_s: float, budget: RemovalBudget | None = None) -> Removed:
    """Fold the finished shards of jobs that ended before then: one row for each step keeps their sums.

    So every count stays. A folded shard is done and has no contents. Only reports read single shards of ended jobs.
    """
    has_some = select(Shard.id).where(Shard.job_id == Job.id, is_finished()).exists()
    jobs = select(Job.id).where(ended_before(older_than_s), has_some).order_by(Job.id)
    return _remove_each(database, jobs, _fold, budget, FOLDED_PAGE)


def is_finished() -> ColumnElement[bool]:
    """Return the condition for a finished shard that is not folded yet."""
    return and_(Shard.state.in_(["done", "split"]), Shard.contents != b"")


def _fold(job_id: int, size: int, transaction: Transaction) -> Removed | None:
    """Fold the next page of a job's shards, of one step; return None if nothing is left."""
    transaction.keep_last_ids(Shard)
    ended = update(Job).where(Job.id == job_id, Job.state.not_in(UNFINISHED)).values(folded_at=db_now())
    if transaction.execute(ended).rowcount == 0:  # it was retried, or is gone
        return None
    # In the order of an index, since a job may have a million shards: the next of a state, and the folded ones, which
    # are the newest.
    transaction.prefer_indexes()
    transaction.prefer_index_order()
    of_steps = select(SpecRow.kind).join(Step, Step.spec_id == SpecRow.id).where(Step.job_id == job_id)
    lanes = transaction.scalars(of_steps).all()
    for lane, state in product(sorted({*lanes}), ["done", "split"]):
        of_lane = select(Shard.id, Shard.step).where(Shard.job_id == job_id, Shard.lane == lane)
        page = of_lane.where(Shard.state == state, Shard.contents != b"").order_by(Shard.id).limit(size)
        if rows := transaction.execute(page).all():
            break
    else:
        return None
    newest = of_lane.add_columns((Shard.contents == b"").label("is_folded")).where(Shard.state == "done")
    newest = newest.order_by(Shard.id.desc()).limit(len(lanes))
    ids = [row.id for row in rows if row.step == rows[0].step]
    ids += [row.id for row in transaction.execute(newest) if row.is_folded and row.step == rows[0].step]
    row = _sum(transaction, ids)
    transaction.execute(delete(Shard).where(Shard.id.in_(ids)))
    # An added row is not counted as new work, since the triggers count only the growth of a row.
    transaction.load(Shard, columns_of([row]))
    return Removed(others=len(ids) - 1)


def _sum(transaction: Transaction, ids: list[int]) -> dict[str, Any]:
    """Return the row that has the sums of these shards, and their first start and last end."""
    same = (Shard.job_id, Shard.step, Shard.spec_id, Shard.lane)
    times = (func.min(Shard.started_at).label("started_at"), func.max(Shard.finished_at).label("finished_at"))
    sums = tuple(func.sum(Shard.__table__.c[name]).label(name) for name in SUMMED)
    totals = transaction.execute(select(*same, *times, *sums).where(Shard.id.in_(ids)).group_by(*same)).one()
    counts = {name: int(getattr(totals, name)) for name in SUMMED}
    kept = {
        name: getattr(totals, name) for name in ("job_id", "step", "spec_id", "lane", "started_at", "finished_at")
    }
    return UNTOUCHED | kept | counts | {"contents": b"", "state": "done"}


@dataclass(frozen=True)
class Rule:
    """A retention rule. It removes rows that are older than an age, and counts them by table.

    Maintenance applies upkeep rules each hour. Other rules have no age unless the settings give one.
    """

    name: str
    remove: Callable[[Database, float, RemovalBudget], Removed]
    count: Callable[[Transaction, float], Mapping[str, int]]
    is_upkeep: bool = True


def _count_runs(transaction: Transaction, age_s: float) -> dict[str, int]:
    runs = old_runs(age_s)
    jobs = select(PipelineRun.job_id).where(PipelineRun.id.in_(runs))
    n_jobs = count_rows(transaction, Job, Job.id.in_(jobs))
    return {
        "pipeline_run": count_rows(transaction, PipelineRun, or_(PipelineRun.id.in_(runs), runs_without_job(age_s))),
        "job": n_jobs,
        "shard": count_rows(transaction, Shard, Shard.job_id.in_(jobs)),
        "ingest": removal.count_readings(transaction, age_s, jobs) if n_jobs else 0,
    }


def _count_step_texts(transaction: Transaction, age_s: float) -> dict[str, int]:
    jobs = select(Job.id).where(jobs_with_needless_texts(age_s))
    return {"step_text": count_rows(transaction, StepText, StepText.job_id.in_(jobs))}


def _count_rejections(transaction: Transaction, age_s: float) -> dict[str, int]:
    read = select(Job.ingest_id).where(ended_before(age_s))
    return {
        table.__tablename__: count_rows(transaction, table, table.ingest_id.in_(read))
        for table in (RejectionRow, Contender)
    }


def _count_shards(transaction: Transaction, age_s: float) -> dict[str, int]:
    # Folding leaves one row for each step with finished shards. An earlier folded row goes into it.
    steps = select(Shard.job_id, Shard.step).where(is_finished())
    groups = steps.where(Shard.job_id.in_(select(Job.id).where(ended_before(age_s)))).distinct().subquery()
    of_group = and_(groups.c.job_id == Shard.job_id, groups.c.step == Shard.step)
    goes = or_(is_finished(), and_(Shard.state == "done", Shard.contents == b""))
    rows = transaction.scalar(select(func.count()).select_from(Shard).join(groups, of_group).where(goes)) or 0
    return {"shard": rows - (transaction.scalar(select(func.count()).select_from(groups)) or 0)}


def _count_versions(transaction: Transaction, age_s: float) -> dict[str, int]:
    old = removal.count_versions(transaction, age_s)
    return {"document": old.documents, "ingest": old.ingests}


def _count_results(transaction: Transaction, age_s: float) -> dict[str, int]:
    return {"outcome": count_rows(transaction, OutcomeRow, needed.are_droppable(transaction, age_s))}


RULES = (
    Rule("step_texts", forget_step_texts, _count_step_texts),
    Rule("runs", forget_runs, _count_runs),
    Rule("rejections", forget_rejections, _count_rejections),
    Rule("shards", fold_shards, _count_shards, is_upkeep=False),
    Rule("versions", removal.remove_versions, _count_versions, is_upkeep=False),
    Rule(needed.RESULTS, needed.drop_unneeded, _count_results, is_upkeep=False),
)


@cache
def every_rule() -> tuple[Rule, ...]:
    """Return the rules in the order in which they are applied, those of features last. Raises StorageError."""
    return tuple(load_by_name("retention", Rule, RULES).values())


def upkeep_ages(age_s: float) -> dict[str, float]:
    """Return this age for each upkeep rule, by name."""
    return {rule.name: age_s for rule in every_rule() if rule.is_upkeep}
