"""A job keeps the id of the request that it was made for, and the span that its trace begins with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"


def upgrade() -> None:
    op.add_column("job", sa.Column("request_id", sa.Text()))
    op.add_column("job", sa.Column("traceparent", sa.Text()))
