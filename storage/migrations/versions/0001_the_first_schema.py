"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "content",
        sa.Column("id", BIG, nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("n_chars", BIG, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_content")),
        sa.UniqueConstraint("sha256", name=op.f("uq_content_sha256")),
    )
    op.create_table(
        "corpus",
        sa.Column("id", BIG, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("n_documents", BIG, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_corpus")),
        sa.UniqueConstraint("name", name=op.f("uq_corpus_name")),
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
    )
    op.create_table(
        "runtime",
        sa.Column("id", BIG, nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("precision", sa.Text(), nullable=False),
        sa.Column("backend", sa.Text(), nullable=False),
        sa.Column("versions", JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runtime")),
        sa.UniqueConstraint("sha256", name=op.f("uq_runtime_sha256")),
    )
    op.create_table(
        "spec",
        sa.Column("id", BIG, nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("quality", sa.Text(), nullable=False),
        sa.Column("params", JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spec")),
        sa.UniqueConstraint("sha256", name=op.f("uq_spec_sha256")),
    )
    op.create_table(
        "worker",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", BIG, nullable=False),
        sa.Column("pid_space", sa.Text(), nullable=True),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("lanes", JSON, nullable=False),
        sa.Column("slots", BIG, nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_worker")),
    )
    op.create_table(
        "ingest",
        sa.Column("id", BIG, nullable=False),
        sa.Column("corpus_id", BIG, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("options", JSON, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("n_records", BIG, nullable=False),
        sa.Column("n_new", BIG, nullable=False),
        sa.Column("n_changed", BIG, nullable=False),
        sa.Column("n_unchanged", BIG, nullable=False),
        sa.Column("n_repeated", BIG, nullable=False),
        sa.Column("n_rejected", BIG, nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["corpus_id"], ["corpus.id"], name=op.f("fk_ingest_corpus_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ingest")),
    )
    with op.batch_alter_table("ingest", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_ingest_corpus_id"), ["corpus_id"], unique=False)

    op.create_table(
        "outcome",
        sa.Column("spec_id", BIG, nullable=False),
        sa.Column("content_id", BIG, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("vector", sa.LargeBinary(), nullable=True),
        sa.Column("data", JSON, nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("reason_class", sa.Text(), nullable=True),
        sa.Column("flags", JSON, nullable=False),
        sa.Column("tokens_in", BIG, nullable=False),
        sa.Column("tokens_out", BIG, nullable=False),
        sa.Column("runtime_id", BIG, nullable=True),
        sa.Column("output_id", BIG, nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_outcome_content_id")),
        sa.ForeignKeyConstraint(["output_id"], ["content.id"], name=op.f("fk_outcome_output_id")),
        sa.ForeignKeyConstraint(["runtime_id"], ["runtime.id"], name=op.f("fk_outcome_runtime_id")),
        sa.ForeignKeyConstraint(["spec_id"], ["spec.id"], name=op.f("fk_outcome_spec_id")),
        sa.PrimaryKeyConstraint("spec_id", "content_id", name=op.f("pk_outcome")),
    )
    with op.batch_alter_table("outcome", schema=None) as batch_op:
        batch_op.create_index("ix_outcome_content_id", ["content_id"], unique=False)

    op.create_table(
        "refusal",
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("spec_id", BIG, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("refused_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["spec_id"], ["spec.id"], name=op.f("fk_refusal_spec_id")),
        sa.PrimaryKeyConstraint("worker_id", "spec_id", name=op.f("pk_refusal")),
    )
    op.create_table(
        "document",
        sa.Column("id", BIG, nullable=False),
        sa.Column("corpus_id", BIG, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("content_id", BIG, nullable=False),
        sa.Column("meta", JSON, nullable=False),
        sa.Column("flags", JSON, nullable=False),
        sa.Column("seq", BIG, nullable=False),
        sa.Column("ingest_id", BIG, nullable=False),
        sa.Column("superseded_by", BIG, nullable=True),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_document_content_id")),
        sa.ForeignKeyConstraint(["corpus_id"], ["corpus.id"], name=op.f("fk_document_corpus_id")),
        sa.ForeignKeyConstraint(["ingest_id"], ["ingest.id"], name=op.f("fk_document_ingest_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_document")),
    )
    with op.batch_alter_table("document", schema=None) as batch_op:
        batch_op.create_index("ix_document_content_id_corpus_id", ["content_id", "corpus_id"], unique=False)
        batch_op.create_index("ix_document_corpus_id_id", ["corpus_id", "id"], unique=False)
        batch_op.create_index("ix_document_corpus_id_seq_id", ["corpus_id", "seq", "id"], unique=False)
        batch_op.create_index(
            "ix_document_superseded",
            ["corpus_id", "key"],
            unique=False,
            sqlite_where=sa.text("superseded_by IS NOT NULL"),
            postgresql_where=sa.text("superseded_by IS NOT NULL"),
        )
        batch_op.create_index(
            "uq_document_current",
            ["corpus_id", "key"],
            unique=True,
            sqlite_where=sa.text("superseded_by IS NULL"),
            postgresql_where=sa.text("superseded_by IS NULL"),
        )

    op.create_table(
        "contender",
        sa.Column("ingest_id", BIG, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("document_id", BIG, nullable=False),
        sa.ForeignKeyConstraint(["document_id"], ["document.id"], name=op.f("fk_contender_document_id")),
        sa.ForeignKeyConstraint(["ingest_id"], ["ingest.id"], name=op.f("fk_contender_ingest_id")),
        sa.PrimaryKeyConstraint("ingest_id", "key", name=op.f("pk_contender")),
    )
    op.create_table(
        "job",
        sa.Column("id", BIG, nullable=False),
        sa.Column("corpus_id", BIG, nullable=False),
        sa.Column("ingest_id", BIG, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("priority", BIG, nullable=False),
        sa.Column("max_failures", sa.Double(), nullable=True),
        sa.Column("base_document", BIG, nullable=False),
        sa.Column("swept_to", BIG, nullable=False),
        sa.Column("last_document", BIG, nullable=True),
        sa.Column("n_documents", BIG, nullable=False),
        sa.Column("n_prior_done", BIG, nullable=False),
        sa.Column("n_prior_failed", BIG, nullable=False),
        sa.Column("n_prior_skipped", BIG, nullable=False),
        sa.Column("n_prior_truncated", BIG, nullable=False),
        sa.Column("n_retried", BIG, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["corpus_id"], ["corpus.id"], name=op.f("fk_job_corpus_id")),
        sa.ForeignKeyConstraint(["ingest_id"], ["ingest.id"], name=op.f("fk_job_ingest_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
    )
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_job_corpus_id"), ["corpus_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_job_state"), ["state"], unique=False)

    op.create_table(
        "rejection",
        sa.Column("ingest_id", BIG, nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["ingest_id"], ["ingest.id"], name=op.f("fk_rejection_ingest_id")),
        sa.PrimaryKeyConstraint("ingest_id", "place", name=op.f("pk_rejection")),
    )
    op.create_table(
        "shard",
        sa.Column("id", BIG, nullable=False),
        sa.Column("job_id", BIG, nullable=False),
        sa.Column("step", BIG, nullable=False),
        sa.Column("spec_id", BIG, nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("contents", sa.LargeBinary(), nullable=False),
        sa.Column("n_contents", BIG, nullable=False),
        sa.Column("n_chars", BIG, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("redo", sa.Boolean(), nullable=False),
        sa.Column("fence", BIG, nullable=False),
        sa.Column("attempt", BIG, nullable=False),
        sa.Column("suspect", BIG, nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.Column("dispatched_at", sa.Double(), nullable=True),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("n_done", BIG, nullable=False),
        sa.Column("n_failed", BIG, nullable=False),
        sa.Column("n_skipped", BIG, nullable=False),
        sa.Column("n_truncated", BIG, nullable=False),
        sa.Column("tokens_in", BIG, nullable=False),
        sa.Column("tokens_out", BIG, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_shard_job_id")),
        sa.ForeignKeyConstraint(["spec_id"], ["spec.id"], name=op.f("fk_shard_spec_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shard")),
    )
    with op.batch_alter_table("shard", schema=None) as batch_op:
        batch_op.create_index("ix_shard_job_id_state_lane_id", ["job_id", "state", "lane", "id"], unique=False)
        batch_op.create_index(
            "ix_shard_dispatched",
            ["lane", "state", "dispatched_at"],
            unique=False,
            sqlite_where=sa.text("dispatched_at IS NOT NULL"),
            postgresql_where=sa.text("dispatched_at IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_shard_running",
            ["lease_until"],
            unique=False,
            sqlite_where=sa.text("lease_until IS NOT NULL"),
            postgresql_where=sa.text("lease_until IS NOT NULL"),
        )

    op.create_table(
        "step",
        sa.Column("job_id", BIG, nullable=False),
        sa.Column("seq", BIG, nullable=False),
        sa.Column("spec_id", BIG, nullable=False),
        sa.Column("input", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_step_job_id")),
        sa.ForeignKeyConstraint(["spec_id"], ["spec.id"], name=op.f("fk_step_spec_id")),
        sa.PrimaryKeyConstraint("job_id", "seq", name=op.f("pk_step")),
    )


def downgrade() -> None:
    for table in (
        "step",
        "shard",
        "rejection",
        "job",
        "contender",
        "document",
        "refusal",
        "outcome",
        "ingest",
        "worker",
        "spec",
        "runtime",
        "lease",
        "corpus",
        "content",
    ):
        op.drop_table(table)
