"""A job says when its rows in step_text were deleted: after that nothing of it can be tried again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.add_column("job", sa.Column("forgotten_at", sa.Double(), nullable=True))
