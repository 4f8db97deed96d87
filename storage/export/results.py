"""Results as a reader wants them: one line for each document, in the order of the source, in flat memory."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from sqlalchemy import Connection, Text, cast, or_, select, tuple_

from storage.database import Database
from storage.flow import prompts
from storage.flow.steps import OpenStep, of_job, way_to_named
from storage.flow.ways import visible
from storage.jobs import require
from storage.outcomes import DOUBTFUL
from storage.schema import Content, Document, OutcomeRow, Rejection

Place = tuple[int, int]  # of a document in its corpus, in whose order results come: (seq, id)
Placed = tuple[Place, dict[str, Any]]

PAGE = 1_000
FEW = 10_000  # failures that are put in order in memory
LINE = re.compile("(.+:)([1-9][0-9]{0,17})", re.DOTALL)  # of a rejection's place: `corpus.csv:17`


def results(
    database: Database, job_id: int, *, step: str | None = None, with_input: bool = False, limit: int | None = None
) -> Iterator[dict[str, Any]]:
    """A step's done documents: {"id", "task", "text" | "vector", "tokens_in", "tokens_out", "flags", "meta"}.

    Of a job with several steps, where none is named, the documents for which any step is done: {"id", "steps",
    "flags", "meta"}, and "steps" has of each step that is done, by its name, what else has a line of its own.
    A vector is a float32 array (dim,), or (windows, dim) where every window was kept: then "windows" has their
    offsets in characters. `with_input` adds the document's text as "input". Raises NoSuchJob and NoSuchStep.
    """
    found = _placed(database, job_id, step, with_input=with_input)
    yield from islice((row for _, row in found), limit)


def samples(database: Database, job_id: int, n: int = 3) -> list[dict[str, Any]]:
    """Return a few results of a job with their inputs, from its first page.

    Results without flags come first, doubtful ones last. Raises NoSuchJob.
    """
    page = list(results(database, job_id, with_input=True, limit=PAGE))
    return sorted(page, key=lambda result: (not DOUBTFUL.isdisjoint(result["flags"]), bool(result["flags"])))[:n]


def count_doubtful(database: Database, job_id: int) -> tuple[int, Counter[str]]:
    """Return how many outputs of a job's first step have a doubtful flag, and how many have each.

    Raises NoSuchJob.
    """
    job = require(database, job_id)
    step = _steps(database, job_id)[0]
    query, computed = prompts.joined(select(OutcomeRow.content_id, OutcomeRow.flags), step, Document.content_id)
    written = cast(OutcomeRow.flags, Text)
    query = (
        query.select_from(Document)
        .join(OutcomeRow, OutcomeRow.content_id == computed)
        .where(visible(job), OutcomeRow.spec_id == step.spec_id, OutcomeRow.status == "done")
        .where(or_(*(written.contains(f'"{flag}"', autoescape=True) for flag in DOUBTFUL)))
    )
    found: dict[int, frozenset[str]] = {}
    with database.read() as connection:
        for row in connection.execute(query):
            found[row.content_id] = DOUBTFUL.intersection(row.flags)
    return len(found), Counter(flag for flags in found.values() for flag in flags)


def _placed(
    database: Database, job_id: int, step: str | None, *, with_input: bool = False, after: Place | None = None
) -> Iterator[Placed]:
    job = require(database, job_id)
    steps = _steps(database, job_id)
    if step is None and len(steps) > 1:
        return _all_steps(steps, _documents(database, job, steps, with_input=with_input, after=after))
    way = way_to_named(steps, step)
    return _one_step(way[-1], _documents(database, job, way, with_input=with_input, after=after))


def _one_step(step: OpenStep, documents: Iterator[_WithOutcomes]) -> Iterator[Placed]:
    for document, outcomes, text in documents:
        outcome = outcomes.get(step.seq)
        if outcome is None or outcome.status != "done":
            continue
        result = {
            "id": document.key,
            **_result(step, outcome),
            "flags": [*document.flags, *outcome.flags],
            "meta": document.meta,
        }
        yield (document.seq, document.id), result if text is None else result | {"input": text}


def _all_steps(steps: Sequence[OpenStep], documents: Iterator[_WithOutcomes]) -> Iterator[Placed]:
    for document, outcomes, text in documents:
        done = {
            step.name: {**_result(step, outcomes[step.seq]), "flags": outcomes[step.seq].flags}
            for step in steps
            if step.seq in outcomes and outcomes[step.seq].status == "done"
        }
        if done:
            result = {"id": document.key, "steps": done, "flags": document.flags, "meta": document.meta}
            yield (document.seq, document.id), result if text is None else result | {"input": text}


def _result(step: OpenStep, outcome: Any) -> dict[str, Any]:
    tokens = {"tokens_in": outcome.tokens_in, "tokens_out": outcome.tokens_out}
    return {"task": step.lane, **_output(outcome), **tokens}


def export_rows(
    database: Database, job_id: int, form: str = "jsonl", *, step: str | None = None
) -> Iterator[dict[str, Any]]:
    """The results as a file in this format has them: `results`, and in tables a column for each of several steps.

    A step's text is in the column of its name, its vector in NAME_vector. Raises NoSuchJob and NoSuchStep.
    """
    return (row for _, row in placed_rows(database, job_id, form, step=step))


def placed_rows(
    database: Database, job_id: int, form: str, *, step: str | None = None, after: Place | None = None
) -> Iterator[Placed]:
    """The same, each with its document's place, from the first document after a place on, which is sought and not
    read up to.
    """
    placed = _placed(database, job_id, step, after=after)
    steps = _steps(database, job_id)
    if form == "jsonl" or step is not None or len(steps) == 1:
        return placed
    columns = {step: database.kind_of(step.lane).output.column(step.name) for step in steps}
    return ((place, _flat(row, columns)) for place, row in placed)


def _flat(row: dict[str, Any], columns: Mapping[OpenStep, str]) -> dict[str, Any]:
    found = row["steps"]
    outputs = {step: found.get(step.name, {}) for step in columns}
    flags = [f"{step.name}: {flag}" for step in columns for flag in outputs[step].get("flags", ())]
    return {
        "id": row["id"],
        **{columns[step]: output.get("vector", output.get("text")) for step, output in outputs.items()},
        "flags": [*row["flags"], *flags],
        "meta": row["meta"],
    }


def _output(outcome: Any) -> dict[str, Any]:
    if outcome.vector is None:
        return {"text": outcome.text}
    vector = np.frombuffer(outcome.vector, dtype="<f4")
    if outcome.data and "windows" in outcome.data:
        return {"vector": vector.reshape(-1, outcome.data["dim"]), "windows": outcome.data["windows"]}
    return {"vector": vector}


def failures(database: Database, job_id: int) -> Iterator[dict[str, Any]]:
    """What has no result: failed and skipped documents {"id", "status", "class", "reason"}, then rejected records,
    each in the order of the source. Raises NoSuchJob.

    Of a job with several steps there is a line for each step, which names it as "step". Where an earlier one gave it
    nothing to read, "status" is `blocked`, and "reason" says what happened there.
    """
    job = require(database, job_id)
    steps = _steps(database, job_id)
    if len(steps) > 1:
        yield from _failures_by_step(database, job, steps)
    elif (few := _few_failures(database, job, steps[0])) is not None:
        yield from (_failure(row.key, row) for row in few)
    else:
        for document, outcomes, _ in _documents(database, job, steps):
            if 0 in outcomes and outcomes[0].status != "done":
                yield _failure(document.key, outcomes[0])
    for row in _rejected(database, job.ingest_id):
        yield {"id": row.place, "status": "rejected", "class": "document", "reason": row.reason}


def _failure(key: str, outcome: Any) -> dict[str, Any]:
    return {"id": key, "status": outcome.status, "class": outcome.reason_class, "reason": outcome.reason}


def _failures_by_step(database: Database, job: Any, steps: Sequence[OpenStep]) -> Iterator[dict[str, Any]]:
    for document, outcomes, _ in _documents(database, job, steps):
        causes: dict[int, dict[str, Any]] = {}
        for step in steps:
            if step.input_step in causes:
                cause = causes[step.input_step]
                reason = cause["reason"]
                if cause["status"] != "blocked":
                    reason = f"{steps[step.input_step].name} {cause['status']}: {reason}"
                causes[step.seq] = cause | {"step": step.name, "status": "blocked", "reason": reason}
            elif step.seq in outcomes and outcomes[step.seq].status != "done":
                failure = _failure(document.key, outcomes[step.seq])
                causes[step.seq] = {"id": failure.pop("id"), "step": step.name, **failure}
        yield from causes.values()


def _few_failures(database: Database, job: Any, step: OpenStep) -> list[Any] | None:
    """The documents without a result and their outcomes, found by one statement; None when there are more than FEW.

    Without an ORDER BY, so that the database may begin with whichever table has less to read, and stop at FEW.
    """
    asked = select(
        Document.id,
        Document.key,
        Document.seq,
        OutcomeRow.status,
        OutcomeRow.reason,
        OutcomeRow.reason_class,
    )
    documents, computed = prompts.joined(asked, step, Document.content_id)
    query = (
        documents.join(OutcomeRow, OutcomeRow.content_id == computed)
        .where(visible(job), OutcomeRow.spec_id == step.spec_id, OutcomeRow.status != "done")
        .limit(FEW + 1)
    )
    with database.read() as connection:
        found = connection.execute(query).all()
    if len(found) > FEW:
        return None
    return sorted(found, key=lambda row: (row.seq, row.id))


def _rejected(database: Database, ingest_id: int) -> Iterator[Any]:
    """The rejected records of an ingest in the order of its source.

    Places in one file differ in a number (`corpus.csv:17`), and numbers are not in the order of text: they are
    sorted here, eight bytes each. What follows them is in the order of text: a place of another form, and the
    paths in a folder.
    """
    lines: dict[str, array[int]] = {}
    for row in _rejections(database, ingest_id):
        if found := LINE.fullmatch(row.place):
            lines.setdefault(found[1], array("q")).append(int(found[2]))
    query = select(Rejection.place, Rejection.reason).where(Rejection.ingest_id == ingest_id)
    for file, numbers in lines.items():
        ordered = np.sort(np.array(numbers))
        for first in range(0, len(ordered), PAGE):
            page = [f"{file}{number}" for number in ordered[first : first + PAGE]]
            with database.read() as connection:
                rows = database.probe(connection, query, Rejection.place, page)
            by_place = {row.place: row for row in rows}
            yield from (by_place[place] for place in page if place in by_place)  # a new reading notes them anew
    yield from (row for row in _rejections(database, ingest_id) if not LINE.fullmatch(row.place))


def _rejections(database: Database, ingest_id: int) -> Iterator[Any]:
    """The rejections of an ingest in the order of text, page by page."""
    query = select(Rejection.place, Rejection.reason).where(Rejection.ingest_id == ingest_id)
    after: str | None = ""
    while after is not None:
        with database.read() as connection:
            following = query.where(Rejection.place > after).order_by(Rejection.place)
            page = connection.execute(following.limit(PAGE)).all()
        yield from page
        after = page[-1].place if len(page) == PAGE else None


_WithOutcomes = tuple[Any, dict[int, Any], str | None]  # a document, its outcomes by step, its text if asked for


def _documents(
    database: Database,
    job: Any,
    steps: Sequence[OpenStep],
    *,
    with_input: bool = False,
    after: Place | None = None,
) -> Iterator[_WithOutcomes]:
    """Documents of the job in the order of the source, those after a place or all.

    `steps` holds with each step those that lead to it. Page by page: no transaction stays open while the caller
    works.
    """
    query = (
        select(
            Document.id,
            Document.key,
            Document.seq,
            Document.content_id,
            Document.meta,
            Document.flags,
        )
        .where(visible(job))
        .order_by(Document.seq, Document.id)
        .limit(PAGE)
    )
    while True:
        following = query if after is None else query.where(tuple_(Document.seq, Document.id) > after)
        with database.read() as connection:
            page = connection.execute(following).all()
            own = {document.id: document.content_id for document in page}
            outcomes = _outcomes(database, connection, steps, own)
            texts = _texts(connection, {*own.values()}) if with_input else {}
        for document in page:
            text = texts.get(document.content_id, "") if with_input else None
            yield document, outcomes[document.id], text
        if len(page) < PAGE:
            return
        after = (page[-1].seq, page[-1].id)


def _steps(database: Database, job_id: int) -> tuple[OpenStep, ...]:
    with database.read() as connection:
        return of_job(connection, job_id)


def _outcomes(
    database: Database, connection: Connection, steps: Sequence[OpenStep], own: Mapping[int, int]
) -> dict[int, dict[int, Any]]:
    """By document what became of it at each step: {document: {step: outcome}}. `own` has their contents."""
    found: dict[int, dict[int, Any]] = {document_id: {} for document_id in own}
    for step in steps:
        given = own
        if step.input_step is not None:
            before = ((document_id, outcomes.get(step.input_step)) for document_id, outcomes in found.items())
            given = {
                document_id: outcome.output_id
                for document_id, outcome in before
                if outcome is not None and outcome.output_id is not None
            }
        read = prompts.of(database, connection, step, given)
        rows = _outcomes_of(database, connection, step.spec_id, {*read.values()})
        for document_id, read_id in read.items():
            if read_id in rows:
                found[document_id][step.seq] = rows[read_id]
    return found


def _outcomes_of(
    database: Database, connection: Connection, spec_id: int, content_ids: Collection[int]
) -> dict[int, Any]:
    """The outcomes of contents under a spec. Looked up one by one (see `Database.probe`)."""
    query = select(
        OutcomeRow.content_id,
        OutcomeRow.status,
        OutcomeRow.text,
        OutcomeRow.vector,
        OutcomeRow.data,
        OutcomeRow.reason,
        OutcomeRow.reason_class,
        OutcomeRow.flags,
        OutcomeRow.tokens_in,
        OutcomeRow.tokens_out,
        OutcomeRow.output_id,
    ).where(OutcomeRow.spec_id == spec_id)
    rows = database.probe(connection, query, OutcomeRow.content_id, content_ids)
    return {row.content_id: row for row in rows}


def _texts(connection: Connection, content_ids: Collection[int]) -> dict[int, str]:
    rows = connection.execute(select(Content.id, Content.text).where(Content.id.in_(content_ids)))
    return {row.id: row.text for row in rows}
