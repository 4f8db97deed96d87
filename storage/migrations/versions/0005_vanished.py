"""Documents that vanished from their source are marked by a version that says so."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("document", sa.Column("gone", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("ingest", sa.Column("n_vanished", BIG, nullable=False, server_default="0"))
    # A release that does not know the mark would take what vanished for what is there.
    op.execute("UPDATE compatibility SET oldest = '0005'")
