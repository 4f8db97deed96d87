"""The shares of failed and of doubtful texts in a job, which bounds may stop."""

from __future__ import annotations

from sqlalchemy import case, func, select

from docmill.storage.core.doubts import Doubt
from docmill.storage.core.schema import Shard, Step
from docmill.storage.core.transaction import Transaction
from docmill.storage.steps.sharding import OPEN_SHARDS
from docmill.storage.steps.steps import Failures


def shares(transaction: Transaction, job_id: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the numbers of failed and of doubtful texts of a job, each with the number of texts that it is of.

    An escalation has its step's texts, and where it fails, the step's results stay. So its texts count only among
    those that may be doubtful, and only if an earlier job computed the step's own results. A failure that it computes
    again counts once it has failed there, too.
    """
    to_do = case((Shard.state.in_(OPEN_SHARDS), Shard.n_contents), else_=0)
    sums = (func.sum(column) for column in (Shard.n_failed, Shard.n_doubtful, Shard.n_contents, to_do))
    shards = transaction.execute(select(Shard.step, *sums).where(Shard.job_id == job_id).group_by(Shard.step)).all()
    of_step = {seq: [*map(int, found)] for seq, *found in shards}  # PostgreSQL's sums are decimals
    n_doubtful = total = again = 0
    n_failed: dict[int, int] = {}
    prior: dict[int, int] = {}
    for row in transaction.execute(select(Step).where(Step.job_id == job_id).order_by(Step.seq)).all():
        failed, doubtful, texts, pending = of_step.get(row.seq, (0, 0, 0, 0))
        n_doubtful += doubtful
        texts -= row.n_retried  # which are in two shards
        if row.escalates is None:
            total += texts
            n_failed[row.seq], prior[row.seq] = failed - row.n_retried, row.n_prior_done
        else:
            again += min(texts, prior[row.escalates])
            if Doubt.stored(row.doubted).failed:
                left = Failures.of(max(0, n_failed[row.escalates]), row.n_rescued, pending)
                n_failed[row.escalates] = left.final
    return (sum(n_failed.values()), total), (n_doubtful, total + again)


def too_many(what: str, n: int, total: int, most: float | None) -> str | None:
    """Return the sentence that says that more than `most` percent of a job's texts are so; None if they are not."""
    if most is None or n <= 0 or n <= total * most / 100:
        return None
    return f"more than {most:g} % of its texts {what} ({n} of {total})"
