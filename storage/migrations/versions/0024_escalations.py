"""A step may compute again, with another spec, those results of a step that are doubted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    op.add_column("step", sa.Column("escalates", BIG))
    op.add_column("step", sa.Column("doubted", JSON))
