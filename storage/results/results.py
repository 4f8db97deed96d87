"""The results of a job: a row for each document, in the order of the source, in constant memory."""

from __future__ import annotations

import random
import re
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from typing import Any, Generic, TypeVar, TypeVarTuple

import numpy as np
from sqlalchemy import ColumnElement, Select, case, func, null, or_, select, tuple_

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import pages, read_texts
from docmill.storage.core.schema import Document, Job, RejectionRow
from docmill.storage.core.specs import StoredOutcome
from docmill.storage.outputs.columns import Column, Form, Result, drop_clashing, row_of
from docmill.storage.outputs.output_types import OutputType, read_confidence
from docmill.storage.steps import lineage
from docmill.storage.steps.choosing import as_text, condition
from docmill.storage.steps.conditions import Flagged, find_filter, is_doubtful
from docmill.storage.steps.jobs import UNFINISHED, require
from docmill.storage.steps.lineage import visible
from docmill.storage.steps.steps import OpenStep, find_named_way, read_steps

DocumentPlace = tuple[int, int]  # of a document in its corpus, in whose order results come: (seq, id)
Placed = tuple[DocumentPlace, dict[str, Any]]
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PAGE = 1_000
FEW = 10_000  # failures that are put in order in memory
LINE = re.compile("(.+:)([1-9][0-9]{0,17})", re.DOTALL)  # of a rejection's place: `corpus.csv:17`


def results(
    database: Database,
    job_id: int,
    *,
    step: str | None = None,
    with_input: bool = False,
    limit: int | None = None,
    flagged: Flagged | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield a step's done documents: {"id", "task", OUTPUT, "tokens_in", "tokens_out", "flags", "meta"}.

    OUTPUT is the JSON form of the kind's output type: "text", "vector", "labels", "spans" or "data". Those of
    `outputs.output_types.CONFIDENCE` that are known come last. If a job has several steps and `step` is None, each
    document with a done step is a dictionary {"id", "steps", "flags", "meta"}. "steps" maps the name of each done
    step to its OUTPUT, tokens and flags. A vector is a float32 array (dim,), or (windows, dim) where every window was
    kept: then "windows" has their offsets in characters. `with_input` adds the text as "input". `flagged` is a
    condition on flags and numbers: of several steps the document has those of all. Raises NotFound.
    """
    first = PAGE if limit is None else max(1, min(limit, PAGE))
    rows = placed_results(database, job_id, step=step, with_input=with_input, flagged=flagged, first=first)
    yield from islice((row for _, row in rows), limit)


def samples(database: Database, job_id: int, n: int = 3, *, of: int = PAGE) -> list[dict[str, Any]]:
    """Return a few results of a job with their inputs, from its first `of` documents.

    Results without flags come first, doubtful ones last. Raises NotFound.
    """
    page = [row for _, row in placed_results(database, job_id, with_input=True, first=of, most=of)]
    return sorted(page, key=lambda result: (is_doubtful(result["flags"]), bool(result["flags"])))[:n]


def placed_results(
    database: Database,
    job_id: int,
    *,
    step: str | None = None,
    with_input: bool = False,
    after: DocumentPlace | None = None,
    flagged: Flagged | None = None,
    first: int | None = None,
    most: int | None = None,
) -> Iterator[Placed]:
    """Return `results`, each with its document's place, of the documents `after` a place.

    An index finds the place. The first page has `first` documents, later pages have more, and all pages have `most`.
    """
    job, steps = _read_job(database, job_id)
    several = step is None and len(steps) > 1
    way = steps if several else find_named_way(steps, step)
    wanted = _Wanted(way, with_input, after, flagged, way if several else way[-1:], first)
    documents = islice(_read_documents(database, job, wanted), most)
    if several:
        return _all_steps(database, steps, documents)
    return one_step(database.kind_of(way[-1].lane).output, way[-1], documents)


def one_step(output: OutputType, step: OpenStep, documents: Iterator[_WithOutcomes]) -> Iterator[Placed]:
    """Yield the results of a step from documents with their outcomes by step, and their texts."""
    for document, outcomes, text in documents:
        outcome = outcomes.get(step.seq)
        if outcome is None or outcome.status != "done":
            continue
        result = {
            "id": document.key,
            **_result(output, step, outcome),
            "flags": [*document.flags, *outcome.flags],
            "meta": document.meta,
            **read_confidence(outcome),
        }
        yield (document.seq, document.id), result if text is None else result | {"input": text}


def _all_steps(database: Database, steps: Sequence[OpenStep], documents: Iterator[_WithOutcomes]) -> Iterator[Placed]:
    for document, outcomes, text in documents:
        done = {
            step.name: {
                **_result(database.kind_of(step.lane).output, step, outcome),
                "flags": outcome.flags,
                **read_confidence(outcome),
            }
            for step in steps
            if (outcome := outcomes.get(step.seq)) is not None and outcome.status == "done"
        }
        if done:
            result = {"id": document.key, "steps": done, "flags": document.flags, "meta": document.meta}
            yield (document.seq, document.id), result if text is None else result | {"input": text}


def _result(output: OutputType, step: OpenStep, outcome: StoredOutcome) -> dict[str, Any]:
    tokens = {"tokens_in": outcome.tokens_in, "tokens_out": outcome.tokens_out}
    return {"task": step.lane, **output.result(outcome), **tokens}


def _beside(table: Sequence[Column], *keys: str) -> list[Column]:
    """Return the columns of these keys, with an underscore before a name that the table has already."""
    return _apart([Column.of(key, Form.TEXT) for key in keys], {column.name for column in table})


def _apart(columns: Sequence[Column], taken: Collection[str]) -> list[Column]:
    """Return the columns, with an underscore before the names that are taken."""
    return [replace(column, name=f"_{column.name}") if column.name in taken else column for column in columns]


def people_columns(
    database: Database,
    job_id: int,
    step: str | None = None,
    *,
    with_input: bool = False,
    remarks: Callable[[Result, Sequence[str]], str | None],
) -> tuple[Column, ...]:
    """Return the columns of a table of `inputs` for people: the document, its text, the outputs, and remarks.

    `remarks` returns the remarks on a row, given the remarks on its outputs. Raises NotFound.
    """
    _, steps = _read_job(database, job_id)
    text = (Column("text", Form.TEXT, lambda row: row.get("input")),) if with_input else ()
    outputs: list[Column] = []
    of_outputs: list[Column] = []
    shown = steps if step is None else find_named_way(steps, step)[-1:]
    for open_step in shown:
        name, kind, params = open_step.name, database.kind_of(open_step.lane), open_step.params
        of_step = kind.output.people_columns(params, kind.heading)
        remark = Column(name, Form.TEXT, partial(kind.output.remark, params=params))
        if len(shown) > 1:
            single = len(of_step) == 1
            of_step = [column.in_step(name, name if single else f"{name} {column.name}") for column in of_step]
            remark = remark.in_step(name, name)
        outputs += of_step
        of_outputs.append(remark)

    def all_remarks(row: Result) -> str | None:
        said = row_of(of_outputs, row).items()
        return remarks(row, [f"{name}: {remark}" if len(shown) > 1 else remark for name, remark in said if remark])

    table = (replace(Column.of("id", Form.TEXT), name="document"), *text)
    taken = {"remarks", *(column.name for column in table)}
    return (*table, *drop_clashing(_apart(outputs, taken), taken), Column("remarks", Form.TEXT, all_remarks))


def columns(
    database: Database, job_id: int, step: str | None = None, *, with_input: bool = False, with_outcome: bool = False
) -> tuple[Column, ...]:
    """Return the columns of a table of `results`; of several steps each has those of its output.

    `with_input` adds the text after the id, and `with_outcome` the outcome and its reason at the end, as `inputs` has
    them. An underscore stands before their names if an output has a column of this name. Raises NotFound.
    """
    first, *rest = _columns(database, job_id, step)
    table = (first, *(_beside(rest, "input") if with_input else ()), *rest)
    return (*table, *(_beside(table, "outcome", "reason") if with_outcome else ()))


def _columns(database: Database, job_id: int, step: str | None) -> tuple[Column, ...]:
    _, steps = _read_job(database, job_id)
    if step is None and len(steps) > 1:
        outputs = [
            column.of_step(open_step.name)
            for open_step in steps
            for column in database.kind_of(open_step.lane).output.columns(open_step.params)
            if column.suffix is not None
        ]
        flags = Column("flags", Form.TEXTS, partial(_flags_of, [open_step.name for open_step in steps]))
        whole = (Column.of("id", Form.TEXT), *outputs, flags, Column.of("meta", Form.JSON))
        of_steps = [
            column.of_step(open_step.name)
            for open_step in steps
            for column in database.kind_of(open_step.lane).output.confidence_columns(open_step.params)
        ]
        return (*whole, *drop_clashing(of_steps, [column.name for column in whole]))
    open_step = find_named_way(steps, step)[-1]
    output = database.kind_of(open_step.lane).output
    return (
        Column.of("id", Form.TEXT),
        Column.of("task", Form.TEXT),
        *output.columns(open_step.params),
        Column.of("tokens_in", Form.INTEGER),
        Column.of("tokens_out", Form.INTEGER),
        Column.of("flags", Form.TEXTS),
        Column.of("meta", Form.JSON),
        *output.confidence_columns(open_step.params),
    )


def _flags_of(steps: Sequence[str], result: Result) -> list[str]:
    """Return the flags of a document and of all its steps, those with the step's name before them."""
    by_step = result["steps"]
    flags = [f"{step}: {flag}" for step in steps if step in by_step for flag in by_step[step]["flags"]]
    return [*result["flags"], *flags]


def failures(database: Database, job_id: int) -> Iterator[dict[str, Any]]:
    """Yield {"id", "status", "class", "reason"} of documents without a result, then of rejected records.

    Documents come in the order of the source. In a job with several steps, each failed step of a document has a row,
    with its name as "step". If an earlier step gave no output, "status" is `blocked`, and "reason" is the earlier
    step's. Raises NotFound.
    """
    job, steps = _read_job(database, job_id)
    if len(steps) == 1 and (few := _few_failures(database, job, steps[0])) is not None:
        yield from (failure_of(row.key, row) for row in few)
    else:
        for document, outcomes, _ in _read_documents(database, job, _Wanted(steps)):
            for step, failure in _failures_of(document.key, steps, outcomes).items():
                named = {"step": step} if len(steps) > 1 else {}
                yield {"id": failure["id"], **named, **failure}
    yield from _read_rejected(database, job.ingest_id)


def inputs(
    database: Database, job_id: int, *, step: str | None = None, with_input: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield every input of a job: each document as `results` has it, and each rejected record, in that order.

    A row also has "outcome" and "reason". The outcome is `done`, `failed`, `skipped`, `blocked`, `rejected`,
    `superseded` (by a later record of the same id), `left out` (by a filter, or by the condition of a step),
    `pending` in a job that goes on, or `not computed`. In a job with several steps, where none is named, it is that
    of the first step that has no result. `with_input` adds the text of a document as "input". Raises NotFound.
    """
    job, steps = _read_job(database, job_id)
    several = step is None and len(steps) > 1
    way = steps if several else find_named_way(steps, step)
    last = way[-1]
    of_one = partial(one_step, database.kind_of(last.lane).output, last)
    rows = partial(_all_steps, database, way) if several else of_one
    lacking: dict[str, Any] = {"steps": {}} if several else {"task": last.lane}
    ended: tuple[str, str | None]
    open_ = ("pending", None) if job.state in UNFINISHED else ("not computed", _WHY_NOT.get(job.state))
    for document, outcomes, text in _read_documents(database, job, _Wanted(way, with_input)):
        failures = _failures_of(document.key, way, outcomes)
        done = next(rows(iter([(document, outcomes, text)])), None)
        row = {"id": document.key, **lacking, "flags": document.flags, "meta": document.meta}
        if text is not None:
            row["input"] = text
        if several and failures:
            name, failure = next(iter(failures.items()))
            ended = failure["status"], f"{name}: {failure['reason']}" if failure["reason"] else name
        elif not several and last.name in failures:
            ended = failures[last.name]["status"], failures[last.name]["reason"]
        elif done is None and (unread := document.left_out or lineage.find_unmet_condition(way, outcomes)):
            ended = "left out", unread
        else:
            ended = open_ if done is None or _is_open(way, outcomes) else ("done", None)
        yield (row if done is None else done[1]) | {"outcome": ended[0], "reason": ended[1]}
    for failure in _read_rejected(database, job.ingest_id):
        told = {"outcome": failure["status"], "reason": failure["reason"]}
        yield {"id": failure["id"], **lacking, "flags": [], "meta": {}, **told}


def _is_open(steps: Sequence[OpenStep], outcomes: Mapping[int, Any]) -> bool:
    """Return True if one of these steps has its input and no outcome, and leaves out no documents."""
    return any(
        step.seq not in outcomes
        and (
            step.leaves_out is None
            if step.input_step is None
            else step.input_step in outcomes and lineage.leads_to(outcomes[step.input_step], step)
        )
        for step in steps
    )


_WHY_NOT = {"cancelled": "the job was cancelled", "stopped": "the job was stopped"}


def failure_of(key: str, outcome: StoredOutcome) -> dict[str, Any]:
    """Return the failure of a document, as `failures` has it."""
    return {"id": key, "status": outcome.status, "class": outcome.reason_class, "reason": outcome.reason}


def _failures_of(key: str, steps: Sequence[OpenStep], outcomes: Mapping[int, Any]) -> dict[str, dict[str, Any]]:
    """Return the failures of a document by the steps' names; what follows a failed step is blocked."""
    names = {step.seq: step.name for step in steps}
    causes: dict[int, dict[str, Any]] = {}
    for step in steps:
        if step.input_step in causes:
            cause = causes[step.input_step]
            reason = cause["reason"]
            if cause["status"] != "blocked":
                reason = f"{names[step.input_step]} {cause['status']}: {reason}"
            causes[step.seq] = cause | {"status": "blocked", "reason": reason}
        elif step.seq in outcomes and outcomes[step.seq].status != "done":
            causes[step.seq] = failure_of(key, outcomes[step.seq])
    return {names[seq]: cause for seq, cause in causes.items()}


def _few_failures(database: Database, job: Job, step: OpenStep) -> list[Any] | None:
    """Return the documents without a result and their outcomes, by one statement; None if there are more than FEW.

    Without an ORDER BY, so that the database may begin with the table that has less to read, and stop at FEW.
    """
    query = select(Document.id, Document.key, Document.seq).select_from(Document)
    query, outcomes = lineage.join_outcomes(query, [step])
    outcome = outcomes[step.seq].c
    query = query.add_columns(outcome.status, outcome.reason, outcome.reason_class)
    query = query.where(visible(job), outcome.status != "done").limit(FEW + 1)
    rows = database.rows(query)
    if len(rows) > FEW:
        return None
    return sorted(rows, key=lambda row: (row.seq, row.id))


def _read_rejected(database: Database, ingest_id: int) -> Iterator[dict[str, Any]]:
    """Yield the rejected records of an ingest in the order of its source.

    Places in one file differ in a number (`corpus.csv:17`). Text sorts numbers wrongly, so they are sorted here,
    eight bytes each. Other places follow in the order of text.
    """
    lines: dict[str, array[int]] = {}
    for record in rejections(database, ingest_id):
        if match := LINE.fullmatch(record["id"]):
            lines.setdefault(match[1], array("q")).append(int(match[2]))
    query = select(*_OF_REJECTION).where(RejectionRow.ingest_id == ingest_id)
    for file, numbers in lines.items():
        ordered = np.sort(np.array(numbers))
        for first in range(0, len(ordered), PAGE):
            page = [f"{file}{number}" for number in ordered[first : first + PAGE]]
            with database.read() as transaction:
                rows = transaction.probe(query, RejectionRow.place, page)
            by_place = {row.place: _rejection(row) for row in rows}
            yield from (by_place[place] for place in page if place in by_place)  # a new reading notes them anew
    yield from (record for record in rejections(database, ingest_id) if not LINE.fullmatch(record["id"]))


def rejections(database: Database, ingest_id: int, *, superseded: bool = True) -> Iterator[dict[str, Any]]:
    """Yield the rejected records of a reading as `failures` has them, in the order of text.

    Superseded records are among them unless `superseded` is False.
    """
    query = select(*_OF_REJECTION).where(RejectionRow.ingest_id == ingest_id)
    if not superseded:
        query = query.where(~RejectionRow.superseded)
    return map(_rejection, chain.from_iterable(pages(database, query, RejectionRow.place, PAGE, after="")))


_OF_REJECTION = (RejectionRow.place, RejectionRow.reason, RejectionRow.superseded)


def _rejection(row: Any) -> dict[str, Any]:
    status = "superseded" if row.superseded else "rejected"
    return {"id": row.place, "status": status, "class": "document", "reason": row.reason}


_WithOutcomes = tuple[Any, dict[int, Any], str | None]  # a document, its outcomes by step, its text if asked for


@dataclass(frozen=True)
class _Wanted:
    """A request for documents with their outcomes at `steps`, which has with each step those that lead to it.

    It is for the documents `after` a place, or all, and only for those whose flags at the steps `flagged_at` meet the
    condition `flagged`. The first page has `first` documents.
    """

    steps: Sequence[OpenStep]
    with_input: bool = False
    after: DocumentPlace | None = None
    flagged: Flagged | None = None
    flagged_at: Sequence[OpenStep] = ()
    first: int | None = None

    def where(self, query: Select[*Ts]) -> Select[*Ts]:
        """Return the query over documents, with the condition on flags."""
        if self.flagged is None:
            return query
        # An outer join, so that the database reads the documents in their order and stops at the page's end.
        query, outcomes = lineage.join_outcomes(query.select_from(Document), self.steps, outer=True)
        tables = [outcomes[step.seq] for step in self.flagged_at]
        written = [case((table.c.status == "done", as_text(table.c.flags)), else_="") for table in tables]
        return query.where(
            condition(self.flagged, as_text(Document.flags), *written, outcomes=tables),
            or_(*(func.coalesce(table.c.status, "") == "done" for table in tables)),
        )


def _read_documents(database: Database, job: Job, wanted: _Wanted) -> Iterator[_WithOutcomes]:
    """Yield documents of the job in the order of the source, page by page.

    No transaction stays open while the caller works.
    """
    steps, with_input, after = wanted.steps, wanted.with_input, wanted.after or lineage.START
    columns = (Document.id, Document.key, Document.seq, Document.content_id, Document.meta, Document.flags)
    left_out = _reason_left_out(steps).label("left_out")
    query = wanted.where(select(*columns, left_out).where(visible(job)).order_by(Document.seq, Document.id))
    size = wanted.first or PAGE
    while True:
        following = query.limit(size).where(tuple_(Document.seq, Document.id) > after)
        with database.read() as transaction:
            if wanted.flagged is not None:
                transaction.prefer_index_order()
            page = transaction.execute(following).all()
            own = {document.id: document.content_id for document in page}
            outcomes = lineage.read_outcomes(transaction, steps, own, lineage.RESULT)
            texts = read_texts(transaction, {*own.values()}) if with_input else {}
        for document in page:
            text = texts.get(document.content_id, "") if with_input else None
            of_document = {seq: rows[document.id] for seq, rows in outcomes.items() if document.id in rows}
            yield document, of_document, text
        if len(page) < size:
            return
        after, size = (page[-1].seq, page[-1].id), min(PAGE, 4 * size)


def _reason_left_out(steps: Sequence[OpenStep]) -> ColumnElement[Any]:
    """Return the column of the reasons why these steps leave out documents; NULL for documents that they read."""
    filters = [find_filter(step.leaves_out) for step in steps if step.leaves_out is not None]
    whens = [(filter_.leaves_out(Document.__table__), filter_.reason) for filter_ in filters]
    return case(*whens) if whens else null()


def _read_job(database: Database, job_id: int) -> tuple[Job, tuple[OpenStep, ...]]:
    """Return a job's row and its steps. Raises NotFound."""
    job = require(database, job_id)
    with database.read() as transaction:
        return job, read_steps(transaction, job_id)


def has_several_steps(database: Database, job_id: int) -> bool:
    """Return True if a job has several steps, so that results without a named step are those of all."""
    _, steps = _read_job(database, job_id)
    return len(steps) > 1


class Reservoir(Generic[T]):
    """A uniform random sample of a stream (algorithm R of J. Vitter, 1985). The seed makes it reproducible."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.kept: list[T] = []
        self._size = size
        self._random = random.Random(seed)  # noqa: S311 - a reproducible sample
        self._seen = 0

    def offer(self, item: T) -> None:
        """Keep or drop an item, at random once the sample is full."""
        self._seen += 1
        if len(self.kept) < self._size:
            self.kept.append(item)
        elif (place := self._random.randrange(self._seen)) < self._size:
            self.kept[place] = item
