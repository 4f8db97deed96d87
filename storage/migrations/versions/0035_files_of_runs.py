"""A run of a pipeline keeps the file that it was started with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0035"
down_revision = "0034"


def upgrade() -> None:
    op.create_table(
        "pipeline_run_file",
        sa.Column("run_id", BIG, nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["pipeline_run.id"], name=op.f("fk_pipeline_run_file_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_pipeline_run_file")),
    )
    op.execute(
        "INSERT INTO pipeline_run_file (run_id, path, text) SELECT r.id, p.path, p.text "
        "FROM pipeline_run r JOIN pipeline p ON p.id = r.pipeline_id "
        "WHERE r.finished_at IS NULL AND r.due_at IS NOT NULL AND r.state <> 'due'"
    )
