"""Prompts rendered from documents' metadata and the outputs of steps."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "prompt",
        sa.Column("spec_id", BIG, nullable=False),
        sa.Column("document_id", BIG, nullable=False),
        sa.Column("text_id", BIG, nullable=False),
        sa.Column("content_id", BIG, nullable=False),
        sa.ForeignKeyConstraint(["spec_id"], ["spec.id"], name=op.f("fk_prompt_spec_id")),
        sa.ForeignKeyConstraint(["document_id"], ["document.id"], name=op.f("fk_prompt_document_id")),
        sa.ForeignKeyConstraint(["text_id"], ["content.id"], name=op.f("fk_prompt_text_id")),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_prompt_content_id")),
        sa.PrimaryKeyConstraint("spec_id", "document_id", "text_id", name=op.f("pk_prompt")),
    )
    op.create_index("ix_prompt_document_id", "prompt", ["document_id"])
    op.create_index("ix_prompt_text_id", "prompt", ["text_id"])
    op.create_index("ix_prompt_content_id", "prompt", ["content_id"])
