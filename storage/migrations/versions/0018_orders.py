"""Orders of other programs are stored before they are carried out."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.create_table(
        "enqueue_order",
        sa.Column("id", BIG, nullable=False),
        sa.Column("sender_id", sa.Text(), nullable=False),
        sa.Column("arguments", JSON, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("job_id", BIG, nullable=True),
        sa.Column("opened_at", sa.Double(), nullable=True),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.Column("tries", BIG, nullable=False),
        sa.Column("failures", BIG, nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("fence", BIG, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_enqueue_order")),
        sa.UniqueConstraint("sender_id", name=op.f("uq_enqueue_order_sender_id")),
    )
    is_open = sa.text("finished_at IS NULL")
    op.create_index("ix_enqueue_order_open", "enqueue_order", ["id"], sqlite_where=is_open, postgresql_where=is_open)
    op.create_index("ix_enqueue_order_finished_at", "enqueue_order", ["finished_at"])
