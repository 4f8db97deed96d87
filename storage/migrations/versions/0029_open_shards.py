"""A view of the open shards of running jobs, for programs that start and stop workers."""

from __future__ import annotations

from alembic import op

revision = "0029"
down_revision = "0028"

VIEW = """
CREATE VIEW open_shards AS
SELECT shard.lane AS lane,
       shard.state AS state
FROM shard
JOIN job ON job.id = shard.job_id
WHERE shard.state IN ('planned', 'queued', 'running')
    AND job.state IN ('ingesting', 'running')
    AND NOT job.paused
"""


def upgrade() -> None:
    op.execute(VIEW)
