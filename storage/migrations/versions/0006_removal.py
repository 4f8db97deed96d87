"""Indexes for removal, and ids that are never given twice."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "last_id",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("id", BIG, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_last_id")),
    )
    op.create_index("ix_contender_document_id", "contender", ["document_id"])
    op.create_index("ix_step_text_content_id", "step_text", ["content_id"])
    op.create_index(
        "ix_outcome_output_id",
        "outcome",
        ["output_id"],
        sqlite_where=sa.text("output_id IS NOT NULL"),
        postgresql_where=sa.text("output_id IS NOT NULL"),
    )
