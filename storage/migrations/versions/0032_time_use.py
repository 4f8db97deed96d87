"""Workers say where their time goes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

revision = "0032"
down_revision = "0031"


def upgrade() -> None:
    op.add_column("worker", sa.Column("time_use", JSON))
