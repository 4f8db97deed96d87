"""Limits on the cost of jobs. Outcomes add their cost when they are stored, and at a limit no shard begins."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from sqlalchemy import delete, func, select, update

from docmill.storage.core.schema import IS_RUNNING, Budget, Job, Shard, ShardCount, SpecRow, Step
from docmill.storage.core.transaction import Transaction

Price: TypeAlias = Sequence[float]  # of a million tokens read, and of a million written

REACHED = Budget.spent >= Budget.max_cost * 0.999999999  # a sum of floats may fall short
_OF_JOB = Budget.name.in_([Job.budget, Job.sharer])
AT_LIMIT = select(Budget.name).where(_OF_JOB, REACHED).correlate(Job).exists()


@dataclass(frozen=True)
class Account:
    """Names under which a job shares workers and costs with other jobs.

    A job without a `budget` has one of its own, if it has a `max_cost`. `prices` maps names of models to prices.
    """

    sharer: str | None = None
    weight: int = 1
    budget: str | None = None
    max_cost: float | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)


def name_of(job_id: int) -> str:
    """Return the name of a job's own budget."""
    return f"job {job_id}"


def limit_job(transaction: Transaction, job_id: int, account: Account) -> None:
    """Set the limit of a job's budget. A job without a budget gets one, and its cost so far counts."""
    transaction.lock_row(Job, job_id)
    # A shard that ends meanwhile either counts in the cost so far, or reads the prices that are set here.
    transaction.execute(transaction.for_update(select(Shard.id).where(Shard.job_id == job_id, IS_RUNNING)))
    name, so_far = transaction.scalar(select(Job.budget).where(Job.id == job_id)), dict[str, float]()
    if name is None:
        name = account.budget or name_of(job_id)
        so_far = set_prices(transaction, job_id, account.prices)
        transaction.execute(update(Job).where(Job.id == job_id).values(budget=name))
    row = transaction.insert(Budget).values(name=name, max_cost=account.max_cost, **so_far)
    more = {column: Budget.__table__.c[column] + n for column, n in so_far.items()}
    changed = {"max_cost": account.max_cost, **more}
    transaction.execute(row.on_conflict_do_update(index_elements=["name"], set_=changed))


def set_prices(transaction: Transaction, job_id: int, prices: Mapping[str, Price]) -> dict[str, float]:
    """Store the prices that a job's budgets use from now on.

    Return the job's cost and ended shards so far, as values of `Budget`'s columns.
    """
    ours = Step.job_id == job_id
    models = select(Step.seq, SpecRow.model).join(SpecRow, SpecRow.id == Step.spec_id).where(ours)
    price_of = {row.seq: prices[row.model] for row in transaction.execute(models) if row.model in prices}
    for seq, price in price_of.items():
        transaction.execute(update(Step).where(ours, Step.seq == seq).values(price=[*price]))
    kept = ShardCount
    sums = [func.sum(column).label(column.key) for column in (kept.tokens_in, kept.tokens_out, kept.n)]
    of_steps = select(kept.step, (kept.state == "done").label("ended"), *sums).where(kept.job_id == job_id)
    priced = of_steps.where(kept.step.in_(price_of)).group_by(kept.step, kept.state)
    rows = [row for row in transaction.execute(priced).all() if row.tokens_in or row.tokens_out]
    costs = [(row, cost(price_of[row.step], int(row.tokens_in), int(row.tokens_out))) for row in rows]
    return {
        "spent": math.fsum(of_shards for _, of_shards in costs),
        "ended_cost": math.fsum(of_shards for row, of_shards in costs if row.ended),
        "n_shards": sum(int(row.n) for row in rows if row.ended),
    }


def charge(transaction: Transaction, costs: Mapping[int, float], ended: Sequence[float] = ()) -> None:
    """Add costs to the budgets of jobs. `ended` has the total cost of each shard that ended.

    Call this last: other transactions wait for the locks.
    """
    spent: dict[str, float] = defaultdict(float)
    for job in transaction.execute(select(Job.id, Job.budget, Job.sharer).where(Job.id.in_([*costs]))):
        for name in filter(None, (job.budget, job.sharer)):
            spent[name] += costs[job.id]
    for name, cost_of_jobs in sorted(spent.items()):  # in one order everywhere, so that no two wait for each other
        more = {
            "spent": Budget.spent + cost_of_jobs,
            "n_shards": Budget.n_shards + len(ended),
            "ended_cost": Budget.ended_cost + math.fsum(ended),
        }
        transaction.execute(update(Budget).where(Budget.name == name).values(**more))


def read_reached(transaction: Transaction, names: Iterable[str | None]) -> dict[str, Budget]:
    """Return the named budgets that have reached their limit, by name."""
    named = [name for name in names if name is not None]
    rows = transaction.execute(select(Budget).where(Budget.name.in_(named), REACHED)) if named else ()
    return {row.name: Budget.of(row) for row in rows}


def describe_reached(budget: Budget, job_id: int, own: str | None) -> str:
    """Return a sentence on a limit that a job has reached. `own` is the name of the job's own budget."""
    assert budget.max_cost is not None
    by = "" if budget.name == name_of(job_id) else f", by all jobs of {budget.name}"
    raised = f"`docmill resume {job_id} --max-cost N` raises it" if budget.name == own else "raise that one"
    return f"it has reached its cost limit: {budget.spent:,.4g} of {budget.max_cost:,.4g}{by}; {raised}"


def forget(transaction: Transaction, job_ids: Iterable[int]) -> None:
    """Delete the budgets of jobs that are about to be deleted. Those of other jobs, and of sharers, stay."""
    ids = [*job_ids]
    names = transaction.scalars(select(Job.budget).where(Job.id.in_(ids), Job.budget.is_not(None))).all()
    others = select(Job.budget).where(Job.budget.in_(names), Job.id.not_in(ids))
    if names:
        transaction.execute(delete(Budget).where(Budget.name.in_(names), Budget.name.not_in(others)))


def cost(price: Price, tokens_in: int, tokens_out: int) -> float:
    """Return the cost of tokens."""
    return (tokens_in * price[0] + tokens_out * price[1]) / 1_000_000
