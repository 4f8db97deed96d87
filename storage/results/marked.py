"""Find a job's failures and its flagged outputs by indexes that hold only these.

A call looks at a bounded number of outcomes, however many the job, its corpus and other jobs with its specs have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

from sqlalchemy import ColumnElement, Text, and_, cast, literal, select

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import read_texts, unseen
from docmill.storage.core.schema import AnyRow, Document, Job, OutcomeRow, Prompt, StepText
from docmill.storage.core.transaction import Transaction
from docmill.storage.results.results import failure_of, one_step, rejections
from docmill.storage.steps import choosing, lineage
from docmill.storage.steps.conditions import flag_name
from docmill.storage.steps.jobs import require
from docmill.storage.steps.lineage import visible
from docmill.storage.steps.steps import OpenStep, find_named_way, find_way, read_steps

LOOKED_AT = 1_000  # outcomes in a call
RECORDS = ""  # in place of a step's name, which is never empty
_PAGE = 500
_EXAMPLES = 3
_NUMBER = re.compile(r"\d+")

# As the partial indexes of the table say it. A parameter in the place of the text would hide the index.
NOT_DONE: ColumnElement[bool] = OutcomeRow.status != literal("done", Text, literal_execute=True)
FLAGGED: ColumnElement[bool] = cast(OutcomeRow.flags, Text) != literal("[]", Text, literal_execute=True)

# The end of a page: the spec of the step (0, or 1 for the escalation), the lap (0 or 1), and the content.
Cursor = tuple[int, int, int]
_Marked = tuple[AnyRow, int, Any]  # a document, the content that the step computed of it, its result


@dataclass(frozen=True)
class ReasonGroup:
    """The number of texts with a status, a class of reason and a reason, and the ids of a few of their documents.

    Reasons that differ only in numbers are in one group; `reason` is that of the first.
    """

    status: str
    reason_class: str | None
    reason: str
    texts: int
    documents: tuple[str, ...]


def group_reasons(database: Database, job_id: int) -> tuple[dict[str, tuple[ReasonGroup, ...]], bool]:
    """Return the texts without a result by step and reason, most frequent reasons first, and True if these are all.

    Steps without such texts are left out. The last key, `RECORDS`, has the rejected records, if there are any.
    Raises NotFound.
    """
    job = require(database, job_id)
    by_step: dict[str, tuple[ReasonGroup, ...]] = {}
    are_all = True
    with database.read() as transaction:
        transaction.prefer_indexes()
        steps = read_steps(transaction, job_id)
        for step in steps:
            pages = _Pages(transaction, job, find_way(steps, step), NOT_DONE)
            marked = pages.read(_PAGE)
            failed = [(document.key, outcome) for document, _, outcome in marked if outcome.status != "done"]
            by_step[step.name] = _group(failure_of(*failure) for failure in failed)
            are_all = are_all and pages.after is None
    rejected = list(islice(rejections(database, job.ingest_id, superseded=False), LOOKED_AT + 1))
    by_step[RECORDS] = _group(rejected[:LOOKED_AT])
    return {step: groups for step, groups in by_step.items() if groups}, are_all and len(rejected) <= LOOKED_AT


def _group(failures: Iterable[Mapping[str, Any]]) -> tuple[ReasonGroup, ...]:
    """Return failures, as `storage.results.results.failures` has them, by reason: most frequent reasons first."""
    groups: dict[tuple[str, str | None, str], list[Mapping[str, Any]]] = {}
    for failure in failures:
        key = (failure["status"], failure["class"], _NUMBER.sub("0", failure["reason"] or ""))
        groups.setdefault(key, []).append(failure)
    made = [
        ReasonGroup(
            status,
            reason_class,
            alike[0]["reason"] or "",
            len(alike),
            tuple(failure["id"] for failure in alike[:_EXAMPLES]),
        )
        for (status, reason_class, _), alike in groups.items()
    ]
    return tuple(sorted(made, key=lambda group: (-group.texts, group.reason)))


def flagged_page(
    database: Database,
    job_id: int,
    step: str | None = None,
    *,
    flag: str | None = None,
    after: Cursor | None = None,
    limit: int = 20,
) -> tuple[list[dict[str, Any]], Cursor | None]:
    """Return a page of the outputs of a step that carry any flag, or the flag of this name, in the order of contents.

    They are as `storage.results.results.results` yields them, with their "input". Return also the end of the page,
    for `after`; None at the end of all. A page of a rare flag may be empty before the end. Raises NotFound.
    """
    job = require(database, job_id)
    with database.read() as transaction:
        transaction.prefer_indexes()
        way = find_named_way(read_steps(transaction, job_id), step)
        pages = _Pages(transaction, job, way, FLAGGED, after)
        flagged: list[_Marked] = []
        for document, content_id, outcome in pages.read(limit, flag):
            carried = {flag_name(name) for name in outcome.flags}
            if outcome.status == "done" and (flag in carried if flag is not None else carried):
                flagged.append((document, content_id, outcome))
            if len(flagged) == limit:
                pages.stop_behind(content_id)
                break
        texts = read_texts(transaction, {content_id for _, content_id, _ in flagged})
    last = way[-1]
    documents = ((document, {last.seq: outcome}, texts.get(text_id, "")) for document, text_id, outcome in flagged)
    results = one_step(database.kind_of(last.lane).output, last, documents)
    flags = [outcome.flags for *_, outcome in flagged]
    return [row | {"flags": of_row} for (_, row), of_row in zip(results, flags, strict=True)], pages.after


class _Pages:
    """Reads the marked outcomes of a job's step. `after` is where it stopped.

    It begins with the contents that are probably the job's, and comes to smaller numbers in a second lap: a spec may
    have outcomes of many corpora.
    """

    def __init__(
        self,
        transaction: Transaction,
        job: Job,
        way: Sequence[OpenStep],
        mark: ColumnElement[bool],
        after: Cursor | None = None,
    ) -> None:
        self._transaction = transaction
        self._step = way[-1]
        self._mark = mark
        self._document = _document_of(job, way)
        self._start = _first_content(transaction, job, way[-1])
        self._read = (0, 0)
        self.after: Cursor | None = after or (0, 0, self._start)

    def read(self, size: int, flag: str | None = None) -> Iterator[_Marked]:
        """Yield the marked outcomes among at most `LOOKED_AT` outcomes, `size` of them in the first page.

        With `flag`, outcomes without it may be left out.
        """
        looked = 0
        while looked < LOOKED_AT and self.after is not None:
            place, lap, content_id = self.after
            rows = self._rows(place, lap, content_id, size)
            looked += len(rows)
            self._read = (place, lap)
            self.after = (place, lap, rows[-1].content_id) if len(rows) == size else self._next_lap(place, lap)
            size = max(size, _PAGE)
            if flag is not None and self._step.escalation is None:
                rows = [row for row in rows if any(flag_name(name) == flag for name in row.flags)]
            yield from self._read_marked(place, rows)

    def stop_behind(self, content_id: int) -> None:
        """Have the next page begin behind a content that was found in the last page read."""
        self.after = (*self._read, content_id)

    def _next_lap(self, place: int, lap: int) -> Cursor | None:
        if lap == 0 and self._start > 0:
            return place, 1, 0
        return (place + 1, 0, self._start) if place + 1 < len(self._step.spec_ids) else None

    def _rows(self, place: int, lap: int, content_id: int, size: int) -> Sequence[AnyRow]:
        outcome = OutcomeRow
        of_spec = and_(outcome.spec_id == self._step.spec_ids[place], outcome.content_id > content_id, self._mark)
        if lap == 1:
            of_spec = and_(of_spec, outcome.content_id <= self._start)
        query = select(outcome.content_id, outcome.flags, self._document.label("document_id")).where(of_spec)
        return self._transaction.execute(query.order_by(outcome.content_id).limit(size)).all()

    def _read_marked(self, place: int, rows: Sequence[AnyRow]) -> Iterator[_Marked]:
        mine = {row.content_id: row.document_id for row in rows if row.document_id is not None}
        if place > 0:  # those that the step's own spec marked were found there
            own = select(OutcomeRow.content_id).where(OutcomeRow.spec_id == self._step.spec_id, self._mark)
            for row in self._transaction.probe(own, OutcomeRow.content_id, mine):
                del mine[row.content_id]
        columns = (Document.id, Document.key, Document.seq, Document.meta, Document.flags)
        documents = {row.id: row for row in self._transaction.probe(select(*columns), Document.id, {*mine.values()})}
        outcomes = choosing.read_results(self._transaction, self._step, mine, lineage.RESULT)
        for content_id, document_id in mine.items():
            if content_id in outcomes and document_id in documents:
                yield documents[document_id], content_id, outcomes[content_id]


def _document_of(job: Job, way: Sequence[OpenStep]) -> ColumnElement[int | None]:
    """Return the expression for the id of a document of the job whose text led to an outcome at the last step.

    It is NULL if there is none. `way` is the path to the step.
    """
    outer = OutcomeRow.__table__
    of_job = visible(job, sought=True), choosing.is_read(way[0].leaves_out)
    query, computed = select(Document.id).where(*of_job), outer.c.content_id
    conditions: list[ColumnElement[bool]] = []
    for before, step in [*pairwise((None, *way))][::-1]:
        assert step is not None
        if step.template is not None:
            prompt = Prompt.__table__.alias()
            conditions += [prompt.c.spec_id == unseen(step.spec_id), prompt.c.content_id == computed]
            # OFFSET 0: one look-up for each prompt (see `Transaction.probe`).
            its_document = query.where(Document.id == prompt.c.document_id).offset(0).correlate(prompt)
            query = select(prompt.c.document_id).where(its_document.exists())
            break
        if before is not None:
            output = OutcomeRow.__table__.alias()
            conditions += [output.c.spec_id.in_([*map(unseen, before.spec_ids)]), output.c.output_id == computed]
            if step.flagged is not None:
                conditions.append(choosing.selects(step.flagged, output))
            computed = output.c.content_id
    else:
        conditions.append(Document.content_id == computed)
    return query.where(*conditions).limit(1).correlate(outer).scalar_subquery()


def _first_content(transaction: Transaction, job: Job, step: OpenStep) -> int:
    """Return a number below the first content that a step of a job probably read; 0 if nothing is known."""
    if step.meets_texts:
        met = and_(StepText.job_id == job.id, StepText.step == step.seq)
        first = select(StepText.content_id).where(met).order_by(StepText.content_id)
    else:
        first = select(Document.content_id).where(Document.corpus_id == job.corpus_id).order_by(Document.id)
    return max(0, (transaction.scalar(first.limit(1)) or 0) - 1)
