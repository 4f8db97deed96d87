"""A risk of outputs is fitted to judgements, and stored as a version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    op.create_table(
        "risk_version",
        sa.Column("spec_id", BIG, nullable=False),
        sa.Column("version", BIG, nullable=False),
        sa.Column("n_good", BIG, nullable=False),
        sa.Column("n_bad", BIG, nullable=False),
        sa.Column("model", JSON, nullable=False),
        sa.Column("quality", JSON, nullable=False),
        sa.Column("fitted_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("spec_id", "version", name=op.f("pk_risk_version")),
        sa.ForeignKeyConstraint(["spec_id"], ["spec.id"], name=op.f("fk_risk_version_spec_id")),
    )
