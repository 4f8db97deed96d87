"""Workers say when they last took from the queue."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("worker", sa.Column("consumed_at", sa.Double()))
