"""Workers say why their device can compute nothing."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("worker", sa.Column("device_problem", sa.Text()))
