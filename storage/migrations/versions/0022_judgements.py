"""People judge outputs; a judgement goes with its outcome."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    op.create_table(
        "judgement",
        sa.Column("spec_id", BIG, nullable=False),
        sa.Column("content_id", BIG, nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("judged_by", sa.Text(), nullable=False),
        sa.Column("judged_at", sa.Double(), nullable=False),
        sa.Column("seed", BIG, nullable=False),
        sa.PrimaryKeyConstraint("spec_id", "content_id", name=op.f("pk_judgement")),
        sa.ForeignKeyConstraint(
            ["spec_id", "content_id"],
            ["outcome.spec_id", "outcome.content_id"],
            name="fk_judgement_outcome",
            ondelete="CASCADE",
        ),
    )
