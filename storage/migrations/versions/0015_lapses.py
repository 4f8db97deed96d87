"""A shard counts its leases that lapsed, which are no deaths."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("shard", sa.Column("lapses", big, nullable=False, server_default="0"))
