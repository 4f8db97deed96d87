"""Specs say when results of theirs were last removed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("spec", sa.Column("dropped_at", sa.Double()))
