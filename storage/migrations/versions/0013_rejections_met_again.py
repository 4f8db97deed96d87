"""A rejection says when it was met last, so that those go that a later reading of the source no longer meets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("rejection", sa.Column("noted_at", sa.Double(), nullable=True))
