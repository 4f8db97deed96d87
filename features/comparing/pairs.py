"""The current documents of a corpus with their results by two jobs, page by page."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import SPEC, is_current_document, spec_of
from docmill.storage.core.schema import Content, Document, SpecRow
from docmill.storage.core.specs import Spec, StoredOutcome
from docmill.storage.errors import StorageError
from docmill.storage.outputs.output_types import CONFIDENCE, OutputType
from docmill.storage.steps import lineage
from docmill.storage.steps.jobs import require
from docmill.storage.steps.steps import OpenStep, find_named_way, read_steps

PAGE = 1_000
Result = dict[str, Any]  # the output in its JSON form, with "flags", and with those of `CONFIDENCE` that are known


@dataclass(frozen=True)
class Side:
    """A step of a job, one of two that are compared. `way` leads to it."""

    job_id: int
    way: tuple[OpenStep, ...]
    spec: Spec
    output: OutputType

    @property
    def step(self) -> OpenStep:
        return self.way[-1]


@dataclass(frozen=True)
class Pair:
    """A document and its result by each job; None where it has none."""

    document_id: int
    key: str
    content_id: int
    a: Result | None
    b: Result | None


def side(database: Database, corpus_id: int, job_id: int, step: str | None) -> Side:
    """Return the step of a job by its name, or the only one.

    Raises NotFound, and StorageError for a job of another corpus, or one of several steps without a
    name.
    """
    job = require(database, job_id)
    if job.corpus_id != corpus_id:
        raise StorageError(f"job {job_id} is of another corpus; `docmill status {job_id}` names it")
    with database.read() as transaction:
        steps = read_steps(transaction, job_id)
        if step is None and len(steps) > 1:
            names = ", ".join(one.name for one in steps)
            raise StorageError(f"job {job_id} has several steps: name one with --step ({names})")
        way = tuple(find_named_way(steps, step))
        spec = spec_of(transaction.execute(select(*SPEC).where(SpecRow.id == way[-1].spec_id)).one())
    return Side(job_id, way, spec, database.kind_of(way[-1].lane).output)


def pairs(database: Database, corpus_id: int, a: Side, b: Side) -> Iterator[list[Pair]]:
    """Yield the current documents with the results that each step has of them."""
    columns = (Document.id, Document.key, Document.content_id)
    query = select(*columns).where(Document.corpus_id == corpus_id, is_current_document()).order_by(Document.id)
    last, full = 0, True
    while full:
        with database.read() as transaction:
            page = transaction.execute(query.where(Document.id > last).limit(PAGE)).all()
            own = {row.id: row.content_id for row in page}
            found = [lineage.read_outcomes(transaction, one.way, own, lineage.RESULT)[one.step.seq] for one in (a, b)]
        yield [
            Pair(row.id, row.key, row.content_id, _result(a, found[0].get(row.id)), _result(b, found[1].get(row.id)))
            for row in page
        ]
        full, last = len(page) == PAGE, page[-1].id if page else last


def texts(database: Database, content_ids: Collection[int]) -> dict[int, str]:
    """Return the texts of these contents."""
    with database.read() as transaction:
        found = transaction.execute(select(Content.id, Content.text).where(Content.id.in_(content_ids)))
        return {row.id: row.text for row in found}


def keys(database: Database, document_ids: Sequence[int]) -> dict[int, str]:
    """Return the ids by which users know these documents."""
    with database.read() as transaction:
        found = transaction.execute(select(Document.id, Document.key).where(Document.id.in_(document_ids)))
        return {row.id: row.key for row in found}


def _result(of: Side, outcome: StoredOutcome | None) -> Result | None:
    if outcome is None or outcome.status != "done":
        return None
    known = {name: getattr(outcome, name) for name in CONFIDENCE if getattr(outcome, name) is not None}
    return {**of.output.result(outcome), "flags": outcome.flags, **known}
