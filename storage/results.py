"""Results as a reader wants them: one line for each document, in the order of the source, in flat memory."""

from __future__ import annotations

import os
import re
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
from sqlalchemy import Connection, select, tuple_

from storage.database import Database
from storage.jobs import require, visible
from storage.schema import Content, Document, OutcomeRow, Rejection, SpecRow, Step

PAGE = 1_000
FEW = 10_000  # failures that are put in order in memory
LINE = re.compile("(.+:)([1-9][0-9]{0,17})", re.DOTALL)  # of a rejection's place: `corpus.csv:17`


def results(
    database: Database, job_id: int, *, with_input: bool = False, limit: int | None = None
) -> Iterator[dict[str, Any]]:
    """The job's done documents: {"id", "task", "text" | "vector", "tokens_in", "tokens_out", "flags", "meta"}.

    A vector is a float32 array (dim,), or (windows, dim) where every window was kept: then "windows" has their
    offsets in characters. `with_input` adds the document's text as "input". Raises NoSuchJob.
    """
    require(database, job_id)
    task = _spec(database, job_id).kind
    found = _documents(database, job_id, OutcomeRow.status == "done", with_input=with_input)
    for document, outcome, text in islice(found, limit):
        result = {
            "id": document.key,
            "task": task,
            **_output(outcome),
            "tokens_in": outcome.tokens_in,
            "tokens_out": outcome.tokens_out,
            "flags": [*document.flags, *outcome.flags],
            "meta": document.meta,
        }
        yield result | {"input": text} if with_input else result


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
    """
    job = require(database, job_id)
    few = _few_failures(database, job)
    if few is None:
        every = _documents(database, job_id, OutcomeRow.status != "done")
        yield from (_failure(document.key, outcome) for document, outcome, _ in every)
    else:
        yield from (_failure(row.key, row) for row in few)
    for row in _rejected(database, job.ingest_id):
        yield {"id": row.place, "status": "rejected", "class": "document", "reason": row.reason}


def _failure(key: str, outcome: Any) -> dict[str, Any]:
    return {"id": key, "status": outcome.status, "class": outcome.reason_class, "reason": outcome.reason}


def _few_failures(database: Database, job: Any) -> list[Any] | None:
    """The documents without a result and their outcomes, found by one statement; None when there are more than FEW.

    Without an ORDER BY, so that the database may begin with whichever table has less to read, and stop at FEW.
    """
    query = (
        select(
            Document.id,
            Document.key,
            Document.seq,
            OutcomeRow.status,
            OutcomeRow.reason,
            OutcomeRow.reason_class,
        )
        .join(OutcomeRow, OutcomeRow.content_id == Document.content_id)
        .where(visible(job), OutcomeRow.spec_id == _spec(database, job.id).id, OutcomeRow.status != "done")
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
                rows = database.probe(connection, query, Rejection.__table__.c.place, page)
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


def _documents(
    database: Database, job_id: int, wanted: Any, *, with_input: bool = False
) -> Iterator[tuple[Any, Any, str | None]]:
    """Documents of the job with their outcome and, if asked for, their text, in the order of the source.

    Page by page: no transaction stays open while the caller works.
    """
    job = require(database, job_id)
    spec_id = _spec(database, job_id).id
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
    position: tuple[int, int] | None = None
    while True:
        after = query if position is None else query.where(tuple_(Document.seq, Document.id) > position)
        with database.read() as connection:
            page = connection.execute(after).all()
            outcomes = _outcomes(database, connection, spec_id, page, wanted)
            texts = _texts(connection, list(outcomes)) if with_input else {}
        for document in page:
            if (outcome := outcomes.get(document.content_id)) is not None:
                yield document, outcome, texts.get(document.content_id)
        if len(page) < PAGE:
            return
        position = (page[-1].seq, page[-1].id)


def _spec(database: Database, job_id: int) -> Any:
    with database.read() as connection:
        query = select(SpecRow.id, SpecRow.kind).join(Step, Step.spec_id == SpecRow.id)
        return connection.execute(query.where(Step.job_id == job_id, Step.seq == 0)).one()


def _outcomes(
    database: Database, connection: Connection, spec_id: int, page: Sequence[Any], wanted: Any
) -> dict[int, Any]:
    """The wanted outcomes of a page's documents, by content. Looked up one by one (see `Database.probe`)."""
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
    ).where(OutcomeRow.spec_id == spec_id, wanted)
    contents = list({document.content_id for document in page})
    rows = database.probe(connection, query, OutcomeRow.__table__.c.content_id, contents)
    return {row.content_id: row for row in rows}


def _texts(connection: Connection, content_ids: list[int]) -> dict[int, str]:
    rows = connection.execute(select(Content.id, Content.text).where(Content.id.in_(content_ids)))
    return {row.id: row.text for row in rows}


def to_jsonl(rows: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """Rows as JSON lines; float32 vectors with as many digits as bring the same float32 back."""
    for row in rows:
        yield orjson.dumps(
            {
                key: np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value
                for key, value in row.items()
            },
            option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE,
        )


def write_file(path: Path, lines: Iterable[bytes]) -> int:
    """Write lines beside the target and rename, so that no partial file ever has its name. Returns how many.

    A link is followed to what it names; a pipe or a device is written to, never replaced.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            return write_lines(file, lines)
    n = 0
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            n = write_lines(file, lines)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return n


def write_lines(file: BinaryIO, lines: Iterable[bytes]) -> int:
    n = 0
    for line in lines:
        file.write(line)
        n += 1
    return n


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
