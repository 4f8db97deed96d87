"""Outcomes have a confidence, and the mean and the least log-probability of what a model wrote."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    for name in ("confidence", "mean_logprob", "least_logprob"):
        op.add_column("outcome", sa.Column(name, sa.Double()))
