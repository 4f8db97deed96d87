"""Workers note the store's last refusal of a write."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("worker", sa.Column("trouble", sa.Text()))
