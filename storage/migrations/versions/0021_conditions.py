"""A step may read only results with, or without, some flags."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.add_column("step", sa.Column("flagged", JSON))
