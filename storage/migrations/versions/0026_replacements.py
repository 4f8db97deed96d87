"""A spec may take the place of another in a corpus."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    op.create_table(
        "replacement",
        sa.Column("id", BIG, nullable=False),
        sa.Column("corpus_id", BIG, nullable=False),
        sa.Column("old_spec_id", BIG, nullable=False),
        sa.Column("new_spec_id", BIG, nullable=False),
        sa.Column("old_job_id", BIG, nullable=False),
        sa.Column("job_id", BIG, nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replacement")),
        # The release before removes corpora without a look at this table.
        sa.ForeignKeyConstraint(
            ["corpus_id"], ["corpus.id"], name=op.f("fk_replacement_corpus_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["old_spec_id"], ["spec.id"], name=op.f("fk_replacement_old_spec_id")),
        sa.ForeignKeyConstraint(["new_spec_id"], ["spec.id"], name=op.f("fk_replacement_new_spec_id")),
    )
    op.create_index("ix_replacement_corpus_id", "replacement", ["corpus_id"])
    is_filling = sa.text("state = 'filling'")
    op.create_index(
        "uq_replacement_filling",
        "replacement",
        ["corpus_id"],
        unique=True,
        sqlite_where=is_filling,
        postgresql_where=is_filling,
    )
    if op.get_bind().dialect.name == "postgresql":
        _let_read()


def _let_read() -> None:
    """Let the users who may read corpora read the table: searches and runs of pipelines look into it."""
    readers = op.get_bind().exec_driver_sql(
        "SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END FROM pg_class, aclexplode(relacl) "
        "WHERE pg_class.oid = 'corpus'::regclass AND privilege_type = 'SELECT' AND grantee <> relowner"
    )
    for reader in readers.scalars().all():
        op.execute(f"GRANT SELECT ON replacement TO {reader}")
