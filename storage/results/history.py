"""Read the shards that jobs finished lately, and those that workers hold now: the history that a pace comes from."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import and_, func, or_, select

from docmill.storage.core.schema import Shard
from docmill.storage.core.transaction import Transaction
from docmill.storage.results.time_left import HeldShard

HISTORY_S = 3_600.0  # how far back
MOST_SHARDS = 300  # of a job


def held_lately(transaction: Transaction, job_ids: Collection[int], now: float) -> dict[int, list[HeldShard]]:
    """Return the shards of the last hour of each job, at most 300 finished ones, and those that workers hold.

    They come from the store alone, so that a pace is the same after a restart of anything.
    """
    latest = func.row_number().over(
        partition_by=(Shard.job_id, Shard.state), order_by=(Shard.finished_at.desc(), Shard.id.desc())
    )
    finished = and_(Shard.state == "done", Shard.finished_at > now - HISTORY_S)
    columns = (Shard.job_id, Shard.step, Shard.state, Shard.started_at, Shard.finished_at)
    found = (
        select(*columns, Shard.n_chars, Shard.n_contents, Shard.tokens_in, latest.label("place"))
        .where(Shard.job_id.in_(job_ids), or_(finished, Shard.state == "running"), Shard.started_at.is_not(None))
        .subquery()
    )
    by_job: dict[int, list[HeldShard]] = {job_id: [] for job_id in job_ids}
    for row in transaction.execute(select(found).where(found.c.place <= MOST_SHARDS)):
        finished_at = row.finished_at if row.state == "done" else None
        by_job[row.job_id].append(
            HeldShard(row.step, row.started_at, finished_at, row.n_chars, row.n_contents, row.tokens_in)
        )
    return by_job
