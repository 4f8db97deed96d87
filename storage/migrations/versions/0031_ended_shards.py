"""Indexes of a job's ended shards, and of a pipeline's runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    ended = sa.text("finished_at IS NOT NULL")
    columns = ["job_id", "finished_at"]
    op.create_index("ix_shard_job_id_finished_at", "shard", columns, sqlite_where=ended, postgresql_where=ended)
    op.create_index("ix_pipeline_run_pipeline_id_id", "pipeline_run", ["pipeline_id", "id"])
