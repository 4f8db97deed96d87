"""The tables, as classes with typed columns, and the database's clock.

A class stands for its table in a statement, and an instance is a row. docmill uses SQLAlchemy's Core without the
ORM: nothing writes rows back, and loading the ORM would slow the start of every command.

Times are seconds since 1970 by the database's clock. A job's counts are sums over its steps and shards, so that
nobody counts outcomes. Constraint names are fixed, so that a migration can name the constraints that it changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol, Self, TypeAlias, TypeVar, overload

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    Table,
    Text,
    UniqueConstraint,
    false,
    literal,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import SchemaItem
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ColumnClause, ColumnElement
from sqlalchemy.types import TypeEngine

from docmill.storage.features import load_all

T = TypeVar("T")
Reference: TypeAlias = ForeignKey | None
AnyRow: TypeAlias = Row[*tuple[Any, ...]]  # with columns of any types

BigId = BigInteger().with_variant(Integer, "sqlite")
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

_TYPES: dict[Any, TypeEngine[Any]] = {
    bool: Boolean(),
    int: BigId,
    float: Double(),
    str: Text(),
    bytes: LargeBinary(),
}


def new_metadata() -> MetaData:
    """Return a collection of tables, which names their constraints in docmill's way."""
    return MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Base:
    """The base class of tables: `__tablename__`, columns, and `__table_args__` for indexes of several columns.

    The tables of a feature have a `metadata` of its own.
    """

    metadata = new_metadata()
    __table__: ClassVar[Table]
    __tablename__: ClassVar[str]
    __table_args__: ClassVar[tuple[SchemaItem, ...]] = ()
    __storage__: ClassVar[Mapping[str, Any]] = MappingProxyType({})  # PostgreSQL's storage parameters

    def __init_subclass__(cls) -> None:
        if "__tablename__" not in vars(cls):
            return
        columns = {name: value for name, value in vars(cls).items() if isinstance(value, Column)}
        for name, attribute in columns.items():
            attribute.name = attribute.key = name
        cls.__table__ = Table(
            cls.__tablename__,
            cls.metadata,
            *columns.values(),
            *cls.__table_args__,
            postgresql_with=dict(cls.__storage__),
        )

    @classmethod
    def of(cls, row: AnyRow) -> Self:
        """Return a row of `select(TABLE)`, perhaps with further columns, as an instance."""
        made = cls()
        vars(made).update(row._mapping)
        return made

    @classmethod
    def __clause_element__(cls) -> Table:
        """Return the table, when SQLAlchemy finds the class in a statement."""
        return cls.__table__


def collections_of_tables() -> list[MetaData]:
    """Return the collections of the core's tables and of each feature's. Raises StorageError."""
    return [Base.metadata, *load_all("tables", MetaData)]


class Attribute(Protocol[T]):
    """A column for type checkers: an SQL expression on the class, the value on a row."""

    @overload
    def __get__(self, row: None, table: type[Base]) -> ColumnClause[T]: ...
    @overload
    def __get__(self, row: Base, table: type[Base]) -> T: ...


@overload
def column(kind: type[T], reference: Reference = None, *, nullable: Literal[True]) -> Attribute[T | None]: ...
@overload
def column(kind: type[T], reference: Reference = None, **more: Any) -> Attribute[T]: ...
@overload
def column(kind: JSON, reference: Reference = None, *, nullable: bool = False) -> Attribute[Any]: ...
def column(
    kind: Any, reference: Reference = None, *, nullable: bool = False, default: Any = None, **more: Any
) -> Any:
    """Return a column for values of a Python type, or for `Json`, perhaps with a foreign key.

    Its name is that of the attribute. Its `default` is the database's, too, for rows that somebody adds by hand.
    SQLAlchemy's Column takes the further arguments.
    """
    if default is not None:
        more |= {"default": default, "server_default": false() if default is False else str(default)}
    return Column(_TYPES.get(kind, kind), *([] if reference is None else [reference]), nullable=nullable, **more)


def partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """Return an index over the rows of a table that meet a condition."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


def refers_on_sqlite(table: str, name: str, to: str) -> SchemaItem:
    """Return a foreign key for SQLite only.

    On PostgreSQL each outcome would lock its spec's row, and workers would wait for the lists of lock holders
    (MultiXact). The rows that it refers to are never deleted.
    """
    return ForeignKeyConstraint([name], [f"{to}.id"], name=f"fk_{table}_{name}").ddl_if("sqlite")


# PostgreSQL analyzes a table after a tenth of it has changed: a million of ten million documents. Tables with this
# are analyzed after 1 %.
ANALYZED = MappingProxyType({"autovacuum_analyze_scale_factor": 0.01})
UPDATED_IN_PLACE = MappingProxyType({"fillfactor": 50})  # small tables whose rows change all the time


class db_now(ColumnElement[float]):  # noqa: N801 - reads as the SQL function that it is
    """The database's own clock, in seconds since 1970: leases must not depend on the workers' clocks."""

    type = Double()
    inherit_cache = True
    # It has no parts. Without this line, SQLAlchemy would never cache a compiled statement with it.
    _traverse_internals = []  # noqa: RUF012


@compiles(db_now, "postgresql")
def _now_postgresql(_now: db_now, _compiler: SQLCompiler, **_options: object) -> str:
    # clock_timestamp() moves within a transaction, now() does not.
    return "extract(epoch from clock_timestamp())::double precision"


@compiles(db_now, "sqlite")
def _now_sqlite(_now: db_now, _compiler: SQLCompiler, **_options: object) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


class Content(Base):
    """A unique text, addressed by the SHA-256 of its UTF-8 bytes."""

    __tablename__ = "content"
    __storage__ = ANALYZED
    id = column(int, primary_key=True)
    sha256 = column(bytes, unique=True)
    text = column(str)
    n_chars = column(int)

    # PostgreSQL refuses a text under another text's hash. SQLite cannot, so docmill checks the texts that it reads.
    __table_args__ = (
        CheckConstraint("sha256 = sha256(convert_to(text, 'UTF8'))", name="ck_content_sha256").ddl_if("postgresql"),
    )


class Corpus(Base):
    __tablename__ = "corpus"
    __storage__ = UPDATED_IN_PLACE
    id = column(int, primary_key=True)
    name = column(str, unique=True)
    n_documents = column(int, default=0)
    created_at = column(float)


class Ingest(Base):
    """One reading of a source into a corpus. `state` is reading or read."""

    __tablename__ = "ingest"
    __storage__ = UPDATED_IN_PLACE
    id = column(int, primary_key=True)
    corpus_id = column(int, ForeignKey("corpus.id"), index=True)
    source = column(str)
    options = column(Json)
    state = column(str)
    n_records = column(int, default=0)
    n_new = column(int, default=0)
    n_changed = column(int, default=0)
    n_unchanged = column(int, default=0)
    n_repeated = column(int, default=0)  # records whose key came again later in the same source
    n_rejected = column(int, default=0)
    n_vanished = column(int, default=0)
    not_pruned = column(str, nullable=True)  # why documents that are missing were not marked as vanished
    started_at = column(float)
    seen_at = column(float)
    finished_at = column(float, nullable=True)


class RejectionRow(Base):
    """A record that is no document: it could not be read, or a later record of the same id `superseded` it.
    `place` is its place in the source, and `noted_at` the time when a reading last came across it.
    """

    __tablename__ = "rejection"
    ingest_id = column(int, ForeignKey("ingest.id"), primary_key=True)
    place = column(str, primary_key=True)
    reason = column(str)
    noted_at = column(float, nullable=True)
    superseded = column(bool, default=False)


class Document(Base):
    """One version of a document: a key of a corpus, with its content. A version is never overwritten.
    `superseded_by` is the version that took its place, NULL for the current version. A `gone` version says that the
    source no longer has the document; it keeps the last content.

    Within a corpus ids rise in the order of commits, since its writers take turns. So the corpus as it stood when its
    last row was L has the rows with `id <= L` that no row up to L supersedes.
    """

    __tablename__ = "document"
    __storage__ = ANALYZED
    id = column(int, primary_key=True)
    corpus_id = column(int, ForeignKey("corpus.id"))
    key = column(str)
    content_id = column(int, ForeignKey("content.id"))
    meta = column(Json)
    flags = column(Json)
    seq = column(int)
    ingest_id = column(int, ForeignKey("ingest.id"), index=True)
    gone = column(bool, default=False)
    superseded_by = column(int, nullable=True)  # no foreign key: it is written before the row that it names

    __table_args__ = (
        partial_index("uq_document_current", "corpus_id", "key", where="superseded_by IS NULL", unique=True),
        partial_index("ix_document_superseded", "corpus_id", "key", where="superseded_by IS NOT NULL"),
        Index("ix_document_content_id_corpus_id", "content_id", "corpus_id"),
        Index("ix_document_corpus_id_id", "corpus_id", "id"),
        Index("ix_document_corpus_id_seq_id", "corpus_id", "seq", "id"),
    )


class Contender(Base):
    """An older version of a document that an unfinished reading came across again (see `storage.ingest.ingest`).
    `started_at` tells that reading from others of its ingest, which may go on at the same time.
    """

    __tablename__ = "contender"
    ingest_id = column(int, ForeignKey("ingest.id"), primary_key=True)
    started_at = column(float, primary_key=True)
    key = column(str, primary_key=True)
    document_id = column(int, ForeignKey("document.id"), index=True)


class SpecRow(Base):
    """A spec (see `storage.core.specs.Spec`); `sha256` is its identity."""

    __tablename__ = "spec"
    id = column(int, primary_key=True)
    sha256 = column(bytes, unique=True)
    kind = column(str)
    model = column(str)
    revision = column(str)
    quality = column(str)
    params = column(Json)
    dropped_at = column(float, nullable=True)  # the last removal of its results, or of documents with one
    dropped_by = column(str, nullable=True)  # the rule of retention that removed them; NULL for a command


class VectorLength(Base):
    """The length of a spec's vectors, set by the first. It never changes: vectors of another length are refused."""

    __tablename__ = "vector_length"
    spec_id = column(int, ForeignKey("spec.id"), primary_key=True)
    numbers = column(int)


class Runtime(Base):
    """The device, precision, backend and library versions that carried out a spec."""

    __tablename__ = "runtime"
    id = column(int, primary_key=True)
    sha256 = column(bytes, unique=True)
    device = column(str)
    precision = column(str)
    backend = column(str)
    versions = column(Json)


class Job(Base):
    """Steps applied to a corpus as it stood at the end of an ingest.

    `state`: ingesting, running, done, cancelled, stopped (too many failures, or doubtful results). A `paused` job
    keeps its state, and none of its shards is dispatched, claimed or committed.

    Three ids of documents mark the job's place in its corpus. After its source is read, the job sweeps the documents
    of other readings. `base_document` was the corpus's last document when the sweep began, `swept_to` is the last one
    that the sweep has examined, and `last_document` the last one that belongs to the job.

    Jobs of one priority share the workers evenly, but those with the same `sharer` share as one, in proportion to
    their `weight`. The budgets with the names `budget` and `sharer` limit their cost.

    Retention (`storage.deletion.retention`) deletes the rows of `step_text` at `forgotten_at`, and folds finished
    shards into one row for each step at `folded_at`. `traceparent` is the first span of the job's trace.
    """

    __tablename__ = "job"
    __storage__ = UPDATED_IN_PLACE
    id = column(int, primary_key=True)
    corpus_id = column(int, ForeignKey("corpus.id"), index=True)
    ingest_id = column(int, ForeignKey("ingest.id"))
    state = column(str, index=True)
    paused = column(bool, default=False)
    reason = column(str, nullable=True)
    priority = column(int, default=0)
    sharer = column(str, nullable=True)
    weight = column(int, default=1)
    budget = column(str, nullable=True)
    max_failures = column(float, nullable=True)  # percent
    max_flagged = column(float, nullable=True)  # percent
    base_document = column(int, default=0)
    swept_to = column(int, default=0)
    last_document = column(int, nullable=True)
    n_documents = column(int, default=0)
    created_at = column(float)
    finished_at = column(float, nullable=True)
    forgotten_at = column(float, nullable=True)
    folded_at = column(float, nullable=True)
    request_id = column(str, nullable=True)
    traceparent = column(str, nullable=True)


class Budget(Base):
    """The total cost of the jobs whose `budget` or `sharer` is its name.

    `spent` is the cost of their stored outcomes; once it reaches `max_cost`, no other shard begins. `n_shards` shards
    with a price and tokens have ended, and cost `ended_cost`.
    """

    __tablename__ = "budget"
    __storage__ = UPDATED_IN_PLACE
    name = column(str, primary_key=True)
    max_cost = column(float, nullable=True)
    spent = column(float, default=0.0)
    n_shards = column(int, default=0)
    ended_cost = column(float, default=0.0)


class Step(Base):
    """One spec of a job. It reads the documents, or the outputs of the earlier step `input_step` (its `seq`).

    With `flagged`, {"names", "lacking"}, it reads only outputs with these flags or bounds, or only those without
    (`storage.steps.conditions.Flagged`). `leaves_out` names the filter of the documents that it does not read
    (`storage.steps.conditions.DocumentFilter`).

    An escalation `escalates` another step (its `seq`): it computes the texts again whose results are `doubted`
    (`storage.steps.conditions.Doubt`). Escalations come after all other steps. `n_rescued` counts the texts that
    failed at that step and are done at this one.

    `n_prior_*` count contents that had an outcome before (`n_prior_truncated` of the done ones stopped at the model's
    limit), and `n_retried` failures that a later shard of this step tries again. `price` is the price of a million
    tokens read and that of a million written; NULL if no budget counts them.
    """

    __tablename__ = "step"
    __storage__ = UPDATED_IN_PLACE
    job_id = column(int, ForeignKey("job.id"), primary_key=True)
    seq = column(int, primary_key=True)
    name = column(str)
    spec_id = column(int, ForeignKey("spec.id"))
    input_step = column(int, nullable=True)
    n_prior_done = column(int, default=0)
    n_prior_failed = column(int, default=0)
    n_prior_skipped = column(int, default=0)
    n_prior_truncated = column(int, default=0)
    n_retried = column(int, default=0)
    flagged = column(Json, nullable=True)
    escalates = column(int, nullable=True)
    doubted = column(Json, nullable=True)
    n_rescued = column(int, default=0)
    leaves_out = column(str, nullable=True)
    price = column(Json, nullable=True)


class StepText(Base):
    """A text that a step has met, so that the step plans it once.

    Texts of documents need no row at a step that reads all of them (`storage.ingest.planning`).
    """

    __tablename__ = "step_text"
    job_id = column(int, primary_key=True)
    step = column(int, primary_key=True)
    content_id = column(int, ForeignKey("content.id"), primary_key=True, index=True)

    __table_args__ = (
        ForeignKeyConstraint(["job_id", "step"], ["step.job_id", "step.seq"], name="fk_step_text_step"),
    )


class Prompt(Base):
    """A prompt that a spec's template rendered from a document's metadata and a text (see `storage.steps.lineage`).

    The text is the document's own, or the output of an earlier step.
    """

    __tablename__ = "prompt"
    spec_id = column(int, ForeignKey("spec.id"), primary_key=True)
    document_id = column(int, ForeignKey("document.id"), primary_key=True, index=True)
    text_id = column(int, ForeignKey("content.id"), primary_key=True, index=True)
    content_id = column(int, ForeignKey("content.id"), index=True)


class Shard(Base):
    """A slice of one step's contents: the unit of queueing, lease and retry.

    `state`: planned, queued, running, done, split (its contents went to smaller shards). `contents` are the
    content ids, little-endian int64. `fence` rises with every claim, and when a shard is taken from its holder or
    from the queue.
    `suspect` is 1 if the shard was in flight when a process died, 2 if it was alone in a process that died, else 0.
    `lapses` counts the leases that lapsed.
    """

    __tablename__ = "shard"
    id = column(int, primary_key=True)
    job_id = column(int, ForeignKey("job.id"))
    step = column(int, default=0)
    spec_id = column(int)
    lane = column(str)
    contents = column(bytes)
    n_contents = column(int)
    n_chars = column(int)
    state = column(str)
    redo = column(bool, default=False)  # compute again what failed before
    fence = column(int, default=0)
    attempt = column(int, default=0)
    suspect = column(int, default=0)
    lapses = column(int, default=0)
    owner = column(str, nullable=True)
    lease_until = column(float, nullable=True)
    not_before = column(float, default=0.0)
    dispatched_at = column(float, nullable=True)
    started_at = column(float, nullable=True)
    finished_at = column(float, nullable=True)
    n_done = column(int, default=0)
    n_failed = column(int, default=0)
    n_skipped = column(int, default=0)
    n_truncated = column(int, default=0)  # of the done ones
    n_doubtful = column(int, default=0)  # doubtful results, since a retry of the stopped job
    tokens_in = column(int, default=0)
    tokens_out = column(int, default=0)

    # Room for heap-only tuples: most of a shard's updates renew its lease. A vacuum after each 2 % of the rows keeps
    # few entries of shards that are no longer planned in the index.
    __storage__ = MappingProxyType({"fillfactor": 85, "autovacuum_vacuum_scale_factor": 0.02, **ANALYZED})
    __table_args__ = (
        refers_on_sqlite("shard", "spec_id", "spec"),
        Index("ix_shard_job_id_state_lane_id", "job_id", "state", "lane", "id"),
        # The indexes below contain few planned shards, so they stay small beside a backlog of millions. A query
        # planner uses them for a job's planned shards only to find those to be dispatched again.
        partial_index("ix_shard_returned", "job_id", "state", "lane", "id", where="state = 'planned' AND fence > 0"),
        partial_index("ix_shard_dispatched", "lane", "state", "dispatched_at", where="dispatched_at IS NOT NULL"),
        # It does not name `lease_until`, so that a heartbeat changes no index (PostgreSQL's heap-only tuples).
        partial_index("ix_shard_running", "owner", where="state = 'running'"),
        # For queries of all jobs. Its condition keeps the planner from using it for one job, for which the next index
        # is better.
        partial_index("ix_shard_finished", "finished_at", where="state = 'done'"),
        partial_index("ix_shard_job_id_finished_at", "job_id", "finished_at", where="finished_at IS NOT NULL"),
    )


# These repeat the conditions of the partial indexes. With a bound parameter, the planner would not use the index.
IS_RUNNING, IS_DONE, _IS_PLANNED = (
    Shard.__table__.c.state == literal(state, Text, literal_execute=True) for state in ("running", "done", "planned")
)
IS_RETURNED = _IS_PLANNED & (Shard.__table__.c.fence > literal(0, literal_execute=True))


class OutcomeRow(Base):
    """The outcome of a content under a spec (see `storage.core.specs.Outcome`)."""

    __tablename__ = "outcome"
    __storage__ = ANALYZED
    spec_id = column(int, primary_key=True)
    content_id = column(int, ForeignKey("content.id"), primary_key=True)
    status = column(str)
    text = column(str, nullable=True)
    vector = column(bytes, nullable=True)
    data = column(Json, nullable=True)
    reason = column(str, nullable=True)
    reason_class = column(str, nullable=True)
    flags = column(Json)
    tokens_in = column(int)
    tokens_out = column(int)
    runtime_id = column(int, nullable=True)
    output_id = column(int, ForeignKey("content.id"), nullable=True)  # the output as a later step's content
    created_at = column(float)
    confidence = column(float, nullable=True)
    mean_logprob = column(float, nullable=True)
    least_logprob = column(float, nullable=True)

    __table_args__ = (
        refers_on_sqlite("outcome", "spec_id", "spec"),
        refers_on_sqlite("outcome", "runtime_id", "runtime"),
        Index("ix_outcome_content_id", "content_id"),
        partial_index("ix_outcome_output_id", "output_id", where="output_id IS NOT NULL"),
        partial_index("ix_outcome_not_done", "spec_id", "content_id", where="status <> 'done'"),
        partial_index("ix_outcome_flagged", "spec_id", "content_id", where="CAST(flags AS TEXT) <> '[]'"),
    )


OUTCOME_VALUES = tuple(column.name for column in OutcomeRow.__table__.columns if not column.primary_key)


class Worker(Base):
    """A device process, which lived at `seen_at`. Shards name its `id` as their owner.

    At `consumed_at` it last held a shard, or heard from the queue; NULL before that. `trouble` is the reason why the
    store refuses its writes, and `device_problem` the reason why its device cannot compute; NULL if there is none.
    `computed` counts, by job id, the texts that are computed and not yet committed. `time_use` has the seconds of the
    last minute by their use (`storage.results.fleet`). `pid` is valid among processes with the same `pid_space`
    (`worker.concurrency`).
    """

    __tablename__ = "worker"
    __storage__ = UPDATED_IN_PLACE
    id = column(str, primary_key=True)
    host = column(str)
    pid = column(int)
    pid_space = column(str, nullable=True)
    device = column(str)
    lanes = column(Json)
    slots = column(int)
    version = column(str)
    started_at = column(float)
    seen_at = column(float)
    consumed_at = column(float, nullable=True)
    trouble = column(str, nullable=True)
    computed = column(Json, nullable=True)
    time_use = column(Json, nullable=True)
    device_problem = column(str, nullable=True)


class Refusal(Base):
    """A spec that a worker cannot serve, and why. It outlives its worker for a while, to be shown."""

    __tablename__ = "refusal"
    worker_id = column(str, primary_key=True)
    spec_id = column(int, ForeignKey("spec.id"), primary_key=True)
    reason = column(str)
    refused_at = column(float)


class Lease(Base):
    """A named duty that one process at a time has, such as maintenance."""

    __tablename__ = "lease"
    __storage__ = UPDATED_IN_PLACE
    name = column(str, primary_key=True)
    owner = column(str)
    until = column(float)


class PipelineRow(Base):
    """A stored pipeline: the `text` of its file, and the `path` from which paths in it start.

    `schedule` is {"cron", "timezone", "overlap"}. Times that came due up to `looked_at` have their runs.
    """

    __tablename__ = "pipeline"
    id = column(int, primary_key=True)
    name = column(str, unique=True)
    path = column(str)
    text = column(str)
    schedule = column(Json, nullable=True)
    looked_at = column(float)
    created_at = column(float)
    updated_at = column(float)


class PipelineRun(Base):
    """One run of a pipeline: when it was due (None for one by hand), and the job that it became.

    `state`: due, reading (its source), running (its job), done, failed, skipped (an earlier run had not ended).
    `handed_at` is the time when a worker was last asked to continue it. `owner` holds it under a lease
    (`storage.pipelines.pipelines`): a worker that reads the source or writes the output, or a command that runs it.
    """

    __tablename__ = "pipeline_run"
    id = column(int, primary_key=True)
    pipeline_id = column(int, ForeignKey("pipeline.id"))
    due_at = column(float, nullable=True)
    state = column(str)
    reason = column(str, nullable=True)
    job_id = column(int, ForeignKey("job.id"), nullable=True)
    handed_at = column(float, nullable=True)
    owner = column(str, nullable=True)
    lease_until = column(float, nullable=True)
    fence = column(int, default=0)
    created_at = column(float)
    finished_at = column(float, nullable=True)

    __table_args__ = (
        UniqueConstraint("pipeline_id", "due_at"),
        Index("ix_pipeline_run_pipeline_id_id", "pipeline_id", "id"),
        partial_index("ix_pipeline_run_open", "state", where="finished_at IS NULL"),
    )


class PipelineRunFile(Base):
    """The path and the text that a pipeline had when a worker began a run of it. A worker that only computes has no
    right to read them.
    """

    __tablename__ = "pipeline_run_file"
    run_id = column(int, ForeignKey("pipeline_run.id", ondelete="CASCADE"), primary_key=True)
    path = column(str)
    text = column(str)


class JobKey(Base):
    """The idempotency key of a job, with the arguments that the command had.

    `job_id` is no foreign key, so that the number is still known after the job was removed; the arguments are deleted
    with the job.
    """

    __tablename__ = "job_key"
    key = column(str, primary_key=True)
    job_id = column(int, index=True)
    arguments = column(Json, nullable=True)
    created_at = column(float)


class LastId(Base):
    """The largest id that a table had when rows of it were deleted; in SQLite only (`storage.core.sqlite`)."""

    __tablename__ = "last_id"
    name = column(str, primary_key=True)
    id = column(int)


class Compatibility(Base):
    """One row: the `oldest` revision of the schema whose release can still work with this database.

    A migration that only adds leaves it. A migration that removes something that an earlier release uses sets it to
    its own revision.
    """

    __tablename__ = "compatibility"
    oldest = column(str, primary_key=True)


# `shard_count` has one count for each SHARD_KEY. ADDED_BY_SHARD maps each other column to the SQL that a shard adds
# to it. SUMMED are the columns that both tables have.
SHARD_KEY = ("job_id", "step", "lane", "state")
SUMMED = (
    *("n_contents", "n_chars", "n_done", "n_failed", "n_skipped", "n_truncated", "n_doubtful"),
    *("tokens_in", "tokens_out"),
)
ADDED_BY_SHARD = {
    "n": "1",
    "n_suspect": "CASE WHEN {0}.suspect > 0 THEN 1 ELSE 0 END",
    **{name: f"{{0}}.{name}" for name in SUMMED},
    "held_ms": "CAST(coalesce(round(1000 * ({0}.finished_at - {0}.started_at)), 0) AS BIGINT)",
}


class ShardCount(Base):
    """The number `n` of a job's shards by step, lane and state, with the sums of their columns.

    `n_suspect` of them are suspects. Workers held them for `held_ms`, from start to end.

    Counts are kept so that a status or a metric costs the same however many shards and results there are. Triggers
    keep this table and `WorkCount`, so they hold for every writer: workers of the release before, and SQL by hand.
    On PostgreSQL a trigger adds rows and never waits for another writer: the count of a key is the sum of its rows,
    which are merged from time to time. On SQLite a key has one row.
    """

    __tablename__ = "shard_count"
    id = column(int, primary_key=True)
    job_id = column(int)  # no foreign key: a count is no reason to keep a job
    step = column(int, default=0)
    lane = column(str)
    state = column(str)
    n = column(int)
    n_suspect = column(int)
    n_contents = column(int, default=0)
    n_chars = column(int, default=0)
    n_done = column(int, default=0)
    n_failed = column(int, default=0)
    n_skipped = column(int, default=0)
    n_truncated = column(int, default=0)
    n_doubtful = column(int, default=0)
    tokens_in = column(int, default=0)
    tokens_out = column(int, default=0)
    held_ms = column(int, default=0)

    # Only by job: rows of several keys then lie together, and a page of them is read once.
    __table_args__ = (Index("ix_shard_count_job_id", "job_id"),)


class WorkCount(Base):
    """Work by lane.

    `name` says which: texts (`label` is a status), tokens_in and tokens_out (a model), commits, lapses, failures (a
    class of reason), flags (a flag), and records (the result of reading a record; without a lane). Failures and flags
    are those of the stored outcomes. The others only grow: they stay when their shards are deleted.
    """

    __tablename__ = "work_count"
    id = column(int, primary_key=True)
    name = column(str)
    lane = column(str)
    label = column(str)
    n = column(int)

    __table_args__ = (Index("ix_work_count_name_lane_label", "name", "lane", "label"),)


class ReplacementRow(Base):
    """A spec that takes the place of another in a corpus.

    `state` is filling (the old spec answers, a job computes the new one), switched (the new one answers), dropped
    (switched, and the old results may be gone), cancelled, or undone (the old one answers again). `old_job_id` is the
    job whose steps the backfill copies, and `job_id` the latest job of the backfill. `ended_at` is the time of the
    last change of `state`.
    """

    __tablename__ = "replacement"
    id = column(int, primary_key=True)
    corpus_id = column(int, ForeignKey("corpus.id", ondelete="CASCADE"), index=True)
    old_spec_id = column(int, ForeignKey("spec.id"))
    new_spec_id = column(int, ForeignKey("spec.id"))
    old_job_id = column(int)  # no foreign keys: jobs may be deleted
    job_id = column(int, nullable=True)
    state = column(str)
    created_at = column(float)
    ended_at = column(float, nullable=True)

    __table_args__ = (partial_index("uq_replacement_filling", "corpus_id", where="state = 'filling'", unique=True),)


class RiskVersion(Base):
    """A model of the risk that outputs of a spec are bad, fitted to judgements. Versions of a spec count from 1.

    `model` is {"intercept", "features"} (see `storage.steps.risk.RiskModel`), and `quality` has its measures.
    """

    __tablename__ = "risk_version"
    spec_id = column(int, ForeignKey("spec.id"), primary_key=True)
    version = column(int, primary_key=True)
    n_good = column(int)
    n_bad = column(int)
    model = column(Json)
    quality = column(Json)
    fitted_at = column(float)
