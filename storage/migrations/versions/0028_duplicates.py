"""Near duplicates: clusters of documents, signatures of texts, and steps that read only the first of a cluster."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

revision = "0028"
down_revision = "0027"

VIEW = """
CREATE VIEW near_duplicates AS
SELECT corpus.name AS corpus,
       document.key AS id,
       first.key AS first,
       duplicate.first_id = duplicate.document_id AS is_first,
       duplicate.n_documents AS documents
FROM duplicate
JOIN document ON document.id = duplicate.document_id
JOIN corpus ON corpus.id = document.corpus_id
LEFT JOIN document AS first ON first.id = duplicate.first_id
WHERE document.superseded_by IS NULL AND NOT document.gone
"""


def _reference(column: str, to: str, table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [to], name=op.f(f"fk_{table}_{column}"), ondelete="CASCADE")


def upgrade() -> None:
    op.create_table(
        "deduplication",
        sa.Column("corpus_id", BIG, nullable=False),
        sa.Column("method", JSON, nullable=False),
        sa.Column("compared_to", BIG, nullable=False),
        sa.Column("n_documents", BIG, nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("corpus_id", name=op.f("pk_deduplication")),
        _reference("corpus_id", "corpus.id", "deduplication"),
    )
    op.create_table(
        "duplicate",
        sa.Column("document_id", BIG, nullable=False),
        sa.Column("corpus_id", BIG, nullable=False),
        sa.Column("first_id", BIG, nullable=False),
        sa.Column("n_documents", BIG, nullable=False),
        sa.PrimaryKeyConstraint("document_id", name=op.f("pk_duplicate")),
        _reference("document_id", "document.id", "duplicate"),
        _reference("corpus_id", "corpus.id", "duplicate"),
    )
    op.create_index("ix_duplicate_corpus_id_first_id", "duplicate", ["corpus_id", "first_id"])
    op.create_table(
        "signature",
        sa.Column("content_id", BIG, nullable=False),
        sa.Column("recipe", BIG, nullable=False),
        sa.Column("bands", sa.LargeBinary(), nullable=False),
        sa.Column("n_shingles", BIG, nullable=False),
        sa.PrimaryKeyConstraint("content_id", "recipe", name=op.f("pk_signature")),
        _reference("content_id", "content.id", "signature"),
    )
    op.add_column("step", sa.Column("keep_first", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute(VIEW)
