"""An escalation may compute the texts on which its step failed; a step counts those that it did."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    op.add_column("step", sa.Column("n_rescued", BIG, nullable=False, server_default="0"))
