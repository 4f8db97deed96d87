"""Shards count their doubtful results, and a job may be stopped when there are too many."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.add_column("job", sa.Column("max_flagged", sa.Double()))
    op.add_column("shard", sa.Column("n_doubtful", BIG, nullable=False, server_default="0"))
