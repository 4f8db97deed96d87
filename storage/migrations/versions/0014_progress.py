"""Workers say how many texts of each job they have computed and not yet committed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("worker", sa.Column("computed", JSON))
