"""Jobs of several steps: the counts move from the job to its steps, and a step's texts are met once.

Workers of the release before know nothing of what follows a shard, so they must not go on.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
COUNTS = ("n_prior_done", "n_prior_failed", "n_prior_skipped", "n_prior_truncated", "n_retried")

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("step", sa.Column("name", sa.Text(), nullable=False, server_default="step"))
    op.add_column("step", sa.Column("input_step", BIG, nullable=True))
    for count in COUNTS:
        op.add_column("step", sa.Column(count, BIG, nullable=False, server_default="0"))
        op.execute(f"UPDATE step SET {count} = (SELECT {count} FROM job WHERE job.id = step.job_id)")
    op.execute("UPDATE step SET name = (SELECT kind FROM spec WHERE spec.id = step.spec_id)")
    op.drop_column("step", "input")
    for count in COUNTS:
        op.drop_column("job", count)
    op.create_table(
        "step_text",
        sa.Column("job_id", BIG, nullable=False),
        sa.Column("step", BIG, nullable=False),
        sa.Column("content_id", BIG, nullable=False),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_step_text_content_id")),
        sa.ForeignKeyConstraint(["job_id", "step"], ["step.job_id", "step.seq"], name="fk_step_text_step"),
        sa.PrimaryKeyConstraint("job_id", "step", "content_id", name=op.f("pk_step_text")),
    )
    op.execute("UPDATE compatibility SET oldest = '0003'")
