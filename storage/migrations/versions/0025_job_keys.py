"""A job may have an idempotency key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    op.create_table(
        "job_key",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("job_id", BIG, nullable=False),
        sa.Column("arguments", JSON, nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_job_key")),
    )
    op.create_index(op.f("ix_job_key_job_id"), "job_key", ["job_id"])
