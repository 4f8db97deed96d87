"""Runs of pipelines are held by a lease, as shards are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("pipeline_run", sa.Column("owner", sa.Text(), nullable=True))
    op.add_column("pipeline_run", sa.Column("lease_until", sa.Double(), nullable=True))
    op.add_column("pipeline_run", sa.Column("fence", BIG, nullable=False, server_default="0"))
