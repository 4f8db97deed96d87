"""The provenance of one result: its document, the steps that led to it, and what computed it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import (
    OUTCOME_VALUES,
    Content,
    Corpus,
    Document,
    Ingest,
    Job,
    OutcomeRow,
    RejectionRow,
    Runtime,
)
from docmill.storage.core.specs import Spec, StoredOutcome
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import NotFound
from docmill.storage.outputs.output_types import read_confidence
from docmill.storage.steps import choosing, lineage
from docmill.storage.steps.choosing import select_read
from docmill.storage.steps.conditions import Doubt, find_filter
from docmill.storage.steps.jobs import require
from docmill.storage.steps.lineage import visible
from docmill.storage.steps.steps import OpenStep, find_named_way, find_way, read_steps


@dataclass(frozen=True)
class Recorded:
    """A stored outcome. `output` has its JSON form, or is {} if the outcome is not done; a vector is an array.

    `confidence` has the numbers of `output_types.CONFIDENCE` that are known. `runtime` has the device, precision,
    backend and versions; it is None if they were not stored. `created_at` is in seconds since 1970.
    """

    status: str
    output: Mapping[str, Any]
    reason: str | None
    reason_class: str | None
    flags: tuple[str, ...]
    tokens_in: int
    tokens_out: int
    created_at: float
    runtime: Mapping[str, Any] | None
    confidence: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EscalationRecord:
    """Both outcomes of a doubted text. `second` is the better model's; None if it is not computed.

    `second_won` is True if the second outcome is the step's result.
    """

    doubt: Doubt
    first_spec: Spec
    second_spec: Spec
    first: Recorded
    second: Recorded | None
    second_won: bool


@dataclass(frozen=True)
class StepRecord:
    """The record of one step for a document.

    `reads` names the step whose output it reads; None is the document. `text` is what it reads, and `content` the
    text that was computed: the prompt that a template made of it, or the same text. Both are None until the earlier
    step has an output. `spec` and `outcome` belong to the result, which may be the escalation's. `removed` is True if
    the outcome was removed. `escalation` is None if the first result was not doubted.
    """

    name: str
    reads: str | None
    spec: Spec
    text: str | None
    content: str | None
    outcome: Recorded | None
    removed: bool = False
    escalation: EscalationRecord | None = None


@dataclass(frozen=True)
class Provenance:
    """A document in a job, and the steps that lead to the explained step, which is the last of `way`.

    `others` names the job's other steps that have an outcome for the document. `changed` is True if the corpus has a
    later version of the document, `gone` if the source no longer has it. `left_out` is the reason why the steps leave
    out the document, as a phrase after "It is".
    """

    job: int
    state: str
    corpus: str
    source: str
    read_at: float
    document: str
    meta: Mapping[str, Any]
    flags: tuple[str, ...]
    text: str
    changed: bool
    gone: bool
    way: tuple[StepRecord, ...]
    others: tuple[str, ...] = ()
    left_out: str | None = None

    @property
    def step(self) -> StepRecord:
        return self.way[-1]


def read_provenance(database: Database, job_id: int, key: str, step: str | None = None) -> Provenance:
    """Return the provenance of a document's result at a step.

    Without a step, it is the last one with a result for the document, else the last one with a failure, else the
    first. Raises NotFound.
    """
    job = require(database, job_id)
    with database.read() as transaction:
        steps = read_steps(transaction, job_id)
        named_way = None if step is None else find_named_way(steps, step)
        document = _find_document(transaction, job, key)
        own = {document.id: document.content_id}
        outcomes = {
            seq: rows[document.id]
            for seq, rows in lineage.read_outcomes(transaction, steps, own, _RECORDED).items()
            if document.id in rows
        }
        way = named_way or find_way(steps, _choose_step(steps, outcomes))
        reading = _Reading(database, transaction, job, document, outcomes)
        records = tuple(reading.record(steps, way_step) for way_step in way)
        name = way[0].leaves_out
        left_out = None if name is None else find_filter(name).explain(transaction, document.id)
        left_out = left_out or lineage.find_unmet_condition(way, outcomes)
        sources = select(Ingest.source, Ingest.started_at).where(Ingest.id == document.ingest_id)
        ingest = transaction.execute(sources).one()
        corpus = transaction.scalar(select(Corpus.name).where(Corpus.id == job.corpus_id))
        text = transaction.scalar(select(Content.text).where(Content.id == document.content_id))
    return Provenance(
        job=job_id,
        state=job.state,
        corpus=corpus or "",
        source=ingest.source,
        read_at=ingest.started_at,
        document=key,
        meta=document.meta or {},
        flags=tuple(document.flags),
        text=text or "",
        changed=document.superseded_by is not None,
        gone=document.gone,
        way=records,
        others=tuple(other.name for other in steps if other.seq in outcomes and other not in way),
        left_out=left_out,
    )


# Two queries, since each condition has an index of its own, and SQLite uses none for both conditions together.
_VERSIONS = (Document.superseded_by.is_(None), Document.superseded_by.is_not(None))
_RECORDED = (*lineage.RESULT, OutcomeRow.runtime_id, OutcomeRow.created_at)


def _choose_step(steps: Sequence[OpenStep], outcomes: Mapping[int, StoredOutcome]) -> OpenStep:
    """Return the last step with a result, else the last one with a failure, else the first step."""
    done = [step for step in steps if step.seq in outcomes and outcomes[step.seq].status == "done"]
    failed = [step for step in steps if step.seq in outcomes]
    return (done or failed or [steps[0]])[-1]


@dataclass(frozen=True)
class _Reading:
    """The rows of one document in a job; `outcomes` are its outcomes by step."""

    database: Database
    transaction: Transaction
    job: Job
    document: Document
    outcomes: Mapping[int, StoredOutcome]

    def record(self, steps: Sequence[OpenStep], step: OpenStep) -> StepRecord:
        """Return the record of a step."""
        text_id = self._text_id(step)
        inputs = {} if text_id is None else {self.document.id: text_id}
        content_id = lineage.read_prompts(self.transaction, step, inputs).get(self.document.id)
        row = self.outcomes.get(step.seq)
        escalation = None if content_id is None else self._escalation(step, content_id)
        by = step
        if step.escalation is not None and escalation is not None and escalation.second_won:
            by = step.escalation
        return StepRecord(
            name=step.name,
            reads=None if step.input_step is None else steps[step.input_step].name,
            spec=by.spec,
            text=self._text(text_id),
            content=self._text(content_id),
            outcome=None if row is None else self._recorded(step, row),
            removed=row is None
            and content_id is not None
            and lineage.may_be_lost(self.transaction, self.job, [step]),
            escalation=escalation,
        )

    def _escalation(self, step: OpenStep, content_id: int) -> EscalationRecord | None:
        if step.escalation is None:
            return None
        columns = [getattr(OutcomeRow, name) for name in OUTCOME_VALUES]
        pair = choosing.read_pairs(self.transaction, step, [content_id], columns).get(content_id)
        if pair is None or not pair.is_doubted:
            return None
        return EscalationRecord(
            doubt=step.escalation.doubt,
            first_spec=step.spec,
            second_spec=step.escalation.spec,
            first=self._recorded(step, pair.first),
            second=None if pair.second is None else self._recorded(step, pair.second),
            second_won=pair.second_wins,
        )

    def _text_id(self, step: OpenStep) -> int | None:
        if step.input_step is None:
            own = {self.document.id: int(self.document.content_id)}
            return select_read(self.transaction, step.leaves_out, own).get(self.document.id)
        before = self.outcomes.get(step.input_step)
        return before.output_id if before is not None and lineage.leads_to(before, step) else None

    def _text(self, content_id: int | None) -> str | None:
        if content_id is None:
            return None
        text: str | None = self.transaction.scalar(select(Content.text).where(Content.id == content_id))
        return text

    def _recorded(self, step: OpenStep, row: StoredOutcome) -> Recorded:
        output = self.database.kind_of(step.lane).output
        return Recorded(
            status=row.status,
            output=output.result(row) if row.status == "done" else {},
            reason=row.reason,
            reason_class=row.reason_class,
            flags=tuple(row.flags),
            tokens_in=row.tokens_in,
            tokens_out=row.tokens_out,
            created_at=row.created_at,
            runtime=self._runtime(row.runtime_id),
            confidence=read_confidence(row),
        )

    def _runtime(self, runtime_id: int | None) -> Mapping[str, Any] | None:
        if runtime_id is None:
            return None
        columns = (Runtime.device, Runtime.precision, Runtime.backend, Runtime.versions)
        row = self.transaction.execute(select(*columns).where(Runtime.id == runtime_id)).one_or_none()
        return None if row is None else row._asdict()


def _find_document(transaction: Transaction, job: Job, key: str) -> Any:
    """Return the row of a document as the job sees it. Raises NotFound."""
    of_key = select(
        Document.id,
        Document.content_id,
        Document.meta,
        Document.flags,
        Document.ingest_id,
        Document.gone,
        Document.superseded_by,
    ).where(Document.corpus_id == job.corpus_id, Document.key == key)
    for versions in _VERSIONS:
        document = transaction.execute(of_key.where(visible(job), versions).limit(1)).first()
        if document is not None:
            return document
    raise NotFound(_explain_missing(transaction, job, key))


def _explain_missing(transaction: Transaction, job: Job, key: str) -> str:
    rejected = select(RejectionRow.reason).where(RejectionRow.ingest_id == job.ingest_id, RejectionRow.place == key)
    if (reason := transaction.scalar(rejected)) is not None:
        return f"{key} is a record that was rejected when job {job.id} read its source: {reason}"
    of_key = select(Document.id).where(Document.corpus_id == job.corpus_id, Document.key == key)
    if any(transaction.scalar(of_key.where(versions).limit(1)) is not None for versions in _VERSIONS):
        return (
            f"The document {key} is in the corpus of job {job.id}, but not in the job: it came or changed after the "
            "job read its source, or it had vanished before. `docmill jobs` lists later jobs."
        )
    listed = f"`docmill results {job.id} --partial` and `docmill failures {job.id}` list them."
    return f"Job {job.id} has no document {key}, or it was removed. {listed}"
