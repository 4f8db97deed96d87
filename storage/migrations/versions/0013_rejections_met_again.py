"""A rejection says when it was met last: if a later reading no longer meets it, it is deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("rejection", sa.Column("noted_at", sa.Double(), nullable=True))
