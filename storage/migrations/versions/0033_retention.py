"""Jobs note when their shards were folded, and specs the rule by which results of them were removed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"


def upgrade() -> None:
    op.add_column("job", sa.Column("folded_at", sa.Double(), nullable=True))
    op.add_column("spec", sa.Column("dropped_by", sa.Text(), nullable=True))
