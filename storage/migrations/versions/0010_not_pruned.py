"""Readings say why they did not mark missing documents as vanished."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("ingest", sa.Column("not_pruned", sa.Text()))
