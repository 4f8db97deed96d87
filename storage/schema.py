"""The tables. Times are seconds since 1970 by the database's clock; counts roll up from shards, never from rows.

Constraint names are fixed, so that a migration can name what it changes on every database.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

BigId = BigInteger().with_variant(Integer, "sqlite")
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def _where(condition: str) -> dict[str, Any]:
    """What makes an index a partial one."""
    return {f"{dialect}_where": text(condition) for dialect in ("sqlite", "postgresql")}


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {int: BigId, float: Double(), str: Text(), bytes: LargeBinary(), Any: Json}  # noqa: RUF012


class Content(Base):
    """A unique text, addressed by the SHA-256 of its UTF-8 bytes."""

    __tablename__ = "content"
    id: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[bytes] = mapped_column(unique=True)
    text: Mapped[str]
    n_chars: Mapped[int]


class Corpus(Base):
    __tablename__ = "corpus"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    n_documents: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[float]


class Ingest(Base):
    """One reading of a source into a corpus. `state` is reading or read."""

    __tablename__ = "ingest"
    id: Mapped[int] = mapped_column(primary_key=True)
    corpus_id: Mapped[int] = mapped_column(ForeignKey("corpus.id"), index=True)
    source: Mapped[str]
    options: Mapped[Any]
    state: Mapped[str]
    n_records: Mapped[int] = mapped_column(default=0)
    n_new: Mapped[int] = mapped_column(default=0)
    n_changed: Mapped[int] = mapped_column(default=0)
    n_unchanged: Mapped[int] = mapped_column(default=0)
    n_repeated: Mapped[int] = mapped_column(default=0)  # records whose key came again later in the same source
    n_rejected: Mapped[int] = mapped_column(default=0)
    n_vanished: Mapped[int] = mapped_column(default=0, server_default="0")
    started_at: Mapped[float]
    seen_at: Mapped[float]
    finished_at: Mapped[float | None]


class Rejection(Base):
    """A record that could not be read, with its place in the source."""

    __tablename__ = "rejection"
    ingest_id: Mapped[int] = mapped_column(ForeignKey("ingest.id"), primary_key=True)
    place: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str]


class Document(Base):
    """A key of a corpus with one content. Never overwritten: `superseded_by` is the document that took its place.

    A `gone` one says that its source has it no more; its content is the last one it had.

    Ids rise in the order of commits within a corpus (its writers take turns), so the corpus as it stood when its
    last document was L is what has `id <= L` and was not superseded by one up to L.
    """

    __tablename__ = "document"
    id: Mapped[int] = mapped_column(primary_key=True)
    corpus_id: Mapped[int] = mapped_column(ForeignKey("corpus.id"))
    key: Mapped[str]
    content_id: Mapped[int] = mapped_column(ForeignKey("content.id"))
    meta: Mapped[Any]
    flags: Mapped[Any]
    seq: Mapped[int]
    ingest_id: Mapped[int] = mapped_column(ForeignKey("ingest.id"))
    gone: Mapped[bool] = mapped_column(default=False, server_default=false())
    superseded_by: Mapped[int | None]  # no foreign key: it is written before the row that it names

    __table_args__ = (
        Index("uq_document_current", "corpus_id", "key", unique=True, **_where("superseded_by IS NULL")),
        Index("ix_document_superseded", "corpus_id", "key", **_where("superseded_by IS NOT NULL")),
        Index("ix_document_content_id_corpus_id", "content_id", "corpus_id"),
        Index("ix_document_corpus_id_id", "corpus_id", "id"),
        Index("ix_document_corpus_id_seq_id", "corpus_id", "seq", "id"),
    )


class Contender(Base):
    """An older version of a document that an unfinished reading came across again (see `storage.intake.ingest`)."""

    __tablename__ = "contender"
    ingest_id: Mapped[int] = mapped_column(ForeignKey("ingest.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    document_id: Mapped[int] = mapped_column(ForeignKey("document.id"), index=True)


class SpecRow(Base):
    """A spec (see `storage.specs.Spec`); `sha256` is its identity."""

    __tablename__ = "spec"
    id: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[bytes] = mapped_column(unique=True)
    kind: Mapped[str]
    model: Mapped[str]
    revision: Mapped[str]
    quality: Mapped[str]
    params: Mapped[Any]


class Runtime(Base):
    """What carried a spec out: device, precision, backend and the libraries' versions."""

    __tablename__ = "runtime"
    id: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[bytes] = mapped_column(unique=True)
    device: Mapped[str]
    precision: Mapped[str]
    backend: Mapped[str]
    versions: Mapped[Any]


class Job(Base):
    """Steps applied to a corpus as it stood at the end of an ingest.

    `state`: ingesting, running, done, cancelled, stopped (too many failures). `paused` stands beside it: a paused
    job keeps its state, and none of its shards is dispatched, claimed or committed.
    Three documents mark the job's place in its corpus: `base_document` was the last one when the sweep through what
    others brought began, `swept_to` the last one that was looked through for what is to be planned, and
    `last_document` (once the source was read) the last one that belongs to the job.
    """

    __tablename__ = "job"
    id: Mapped[int] = mapped_column(primary_key=True)
    corpus_id: Mapped[int] = mapped_column(ForeignKey("corpus.id"), index=True)
    ingest_id: Mapped[int] = mapped_column(ForeignKey("ingest.id"))
    state: Mapped[str] = mapped_column(index=True)
    paused: Mapped[bool] = mapped_column(default=False)
    reason: Mapped[str | None]
    priority: Mapped[int] = mapped_column(default=0)
    max_failures: Mapped[float | None]  # percent
    base_document: Mapped[int] = mapped_column(default=0)
    swept_to: Mapped[int] = mapped_column(default=0)
    last_document: Mapped[int | None]
    n_documents: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[float]
    finished_at: Mapped[float | None]


class Step(Base):
    """One spec of a job, and what it reads: the documents, or what an `input_step` before it (its `seq`) put out.

    `n_prior_*` are the contents that had an outcome before (`n_prior_truncated` of the done ones were cut at the
    model's limit); `n_retried` those whose failure is being tried again by a later shard of this step.
    """

    __tablename__ = "step"
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(server_default="step")
    spec_id: Mapped[int] = mapped_column(ForeignKey("spec.id"))
    input_step: Mapped[int | None]
    n_prior_done: Mapped[int] = mapped_column(default=0, server_default="0")
    n_prior_failed: Mapped[int] = mapped_column(default=0, server_default="0")
    n_prior_skipped: Mapped[int] = mapped_column(default=0, server_default="0")
    n_prior_truncated: Mapped[int] = mapped_column(default=0, server_default="0")
    n_retried: Mapped[int] = mapped_column(default=0, server_default="0")


class StepText(Base):
    """A text that a step has met which reads another's outputs: so it is planned once."""

    __tablename__ = "step_text"
    job_id: Mapped[int] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    content_id: Mapped[int] = mapped_column(ForeignKey("content.id"), primary_key=True, index=True)

    __table_args__ = (
        ForeignKeyConstraint(["job_id", "step"], ["step.job_id", "step.seq"], name="fk_step_text_step"),
    )


class Prompt(Base):
    """What a spec's template rendered of a document's metadata and a text (see `storage.flow.prompts`).

    The text is the document's own, or what an earlier step made of it.
    """

    __tablename__ = "prompt"
    spec_id: Mapped[int] = mapped_column(ForeignKey("spec.id"), primary_key=True)
    document_id: Mapped[int] = mapped_column(ForeignKey("document.id"), primary_key=True, index=True)
    text_id: Mapped[int] = mapped_column(ForeignKey("content.id"), primary_key=True, index=True)
    content_id: Mapped[int] = mapped_column(ForeignKey("content.id"), index=True)


class Shard(Base):
    """A slice of one step's contents: the unit of queueing, lease and retry.

    `state`: planned, queued, running, done, split (its contents went to smaller shards). `contents` are the
    content ids, little-endian int64. `fence` rises with every claim and every taking away. `suspect` counts
    what is known against it: 0 nothing, 1 it was in flight when its process died, 2 it died alone once.
    """

    __tablename__ = "shard"
    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"))
    step: Mapped[int] = mapped_column(default=0)
    spec_id: Mapped[int] = mapped_column(ForeignKey("spec.id"))
    lane: Mapped[str]
    contents: Mapped[bytes]
    n_contents: Mapped[int]
    n_chars: Mapped[int]
    state: Mapped[str]
    redo: Mapped[bool] = mapped_column(default=False)  # compute again what failed before
    fence: Mapped[int] = mapped_column(default=0)
    attempt: Mapped[int] = mapped_column(default=0)
    suspect: Mapped[int] = mapped_column(default=0)
    owner: Mapped[str | None]
    lease_until: Mapped[float | None]
    not_before: Mapped[float] = mapped_column(default=0.0)
    dispatched_at: Mapped[float | None]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    n_done: Mapped[int] = mapped_column(default=0)
    n_failed: Mapped[int] = mapped_column(default=0)
    n_skipped: Mapped[int] = mapped_column(default=0)
    n_truncated: Mapped[int] = mapped_column(default=0)  # of the done ones
    tokens_in: Mapped[int] = mapped_column(default=0)
    tokens_out: Mapped[int] = mapped_column(default=0)

    __table_args__ = (
        Index("ix_shard_job_id_state_lane_id", "job_id", "state", "lane", "id"),
        # Those below hold no planned shards: with a backlog of millions they stay small, and no planner takes them
        # for the way to a job's planned ones.
        Index("ix_shard_dispatched", "lane", "state", "dispatched_at", **_where("dispatched_at IS NOT NULL")),
        Index("ix_shard_running", "lease_until", **_where("lease_until IS NOT NULL")),
    )


class OutcomeRow(Base):
    """What became of a content under a spec (see `storage.outcomes.Outcome`). At most one row, ever."""

    __tablename__ = "outcome"
    spec_id: Mapped[int] = mapped_column(ForeignKey("spec.id"), primary_key=True)
    content_id: Mapped[int] = mapped_column(ForeignKey("content.id"), primary_key=True)
    status: Mapped[str]
    text: Mapped[str | None]
    vector: Mapped[bytes | None]
    data: Mapped[Any | None]
    reason: Mapped[str | None]
    reason_class: Mapped[str | None]
    flags: Mapped[Any]
    tokens_in: Mapped[int]
    tokens_out: Mapped[int]
    runtime_id: Mapped[int | None] = mapped_column(ForeignKey("runtime.id"))
    output_id: Mapped[int | None] = mapped_column(ForeignKey("content.id"))  # the output as a later step's content
    created_at: Mapped[float]

    __table_args__ = (
        Index("ix_outcome_content_id", "content_id"),
        Index("ix_outcome_output_id", "output_id", **_where("output_id IS NOT NULL")),
    )


class Worker(Base):
    """A device process that lives, or did until `seen_at`. `id` is what shards name as their owner.

    At `consumed_at` it last held a shard, or heard from the queue; NULL before that. `pid` means something to those
    processes that share its `pid_space` (see `worker.pids`).
    """

    __tablename__ = "worker"
    id: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    pid_space: Mapped[str | None]
    device: Mapped[str]
    lanes: Mapped[Any]
    slots: Mapped[int]
    version: Mapped[str]
    started_at: Mapped[float]
    seen_at: Mapped[float]
    consumed_at: Mapped[float | None]


class Refusal(Base):
    """A spec that a worker cannot serve, and why. It outlives its worker for a while, to be shown."""

    __tablename__ = "refusal"
    worker_id: Mapped[str] = mapped_column(primary_key=True)
    spec_id: Mapped[int] = mapped_column(ForeignKey("spec.id"), primary_key=True)
    reason: Mapped[str]
    refused_at: Mapped[float]


class Lease(Base):
    """A named duty that one process at a time has, such as upkeep."""

    __tablename__ = "lease"
    name: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    until: Mapped[float]


class LastId(Base):
    """The largest id that a table had when rows of it were deleted; in SQLite only (see `storage.numbering`)."""

    __tablename__ = "last_id"
    name: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[int]


class Compatibility(Base):
    """One row: the `oldest` revision of the schema whose release can still work with this database.

    A migration that only adds leaves it; one that takes away what an earlier release uses sets it to its own.
    """

    __tablename__ = "compatibility"
    oldest: Mapped[str] = mapped_column(primary_key=True)


class PipelineRow(Base):
    """A pipeline as its file says, with the `path` that paths in it start from.

    `schedule` is {"cron", "timezone", "overlap"}; what came due up to `looked_at` has its run.
    """

    __tablename__ = "pipeline"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    path: Mapped[str]
    text: Mapped[str]
    schedule: Mapped[Any | None]
    looked_at: Mapped[float]
    created_at: Mapped[float]
    updated_at: Mapped[float]


class PipelineRun(Base):
    """One run of a pipeline: when it was due (None for one by hand), and the job that it became.

    `state`: due, reading (its source), running (its job), done, failed, skipped (the one before was still going).
    `handed_at` is when a worker was last asked to take it further.
    """

    __tablename__ = "pipeline_run"
    id: Mapped[int] = mapped_column(primary_key=True)
    pipeline_id: Mapped[int] = mapped_column(ForeignKey("pipeline.id"))
    due_at: Mapped[float | None]
    state: Mapped[str]
    reason: Mapped[str | None]
    job_id: Mapped[int | None] = mapped_column(ForeignKey("job.id"))
    handed_at: Mapped[float | None]
    created_at: Mapped[float]
    finished_at: Mapped[float | None]

    __table_args__ = (
        UniqueConstraint("pipeline_id", "due_at"),
        Index("ix_pipeline_run_open", "state", **_where("finished_at IS NULL")),
    )
