"""Delete the kept counts of jobs that are deleted."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import delete

from docmill.storage.core.schema import ShardCount
from docmill.storage.core.transaction import Transaction


def forget_counts(transaction: Transaction, job_ids: Collection[int]) -> None:
    """Delete the counts of jobs that lose their last shards: zeros by now, which PostgreSQL merges away itself."""
    if transaction.server is None:
        transaction.execute(delete(ShardCount).where(ShardCount.job_id.in_(job_ids)))
