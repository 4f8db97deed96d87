"""Results as a reader wants them: one line for each document, in the order of the source, in flat memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
from sqlalchemy import and_, or_, select, tuple_

from storage.database import Database
from storage.jobs import require, visible
from storage.schema import Content, Document, OutcomeRow, Rejection, SpecRow, Step

PAGE = 1_000


def results(
    database: Database, job_id: int, *, with_input: bool = False, limit: int | None = None
) -> Iterator[dict[str, Any]]:
    """The job's done documents: {"id", "task", "text" | "vector", "tokens_in", "tokens_out", "flags", "meta"}.

    A vector is a float32 array (dim,), or (windows, dim) where every window was kept: then "windows" has their
    offsets in characters. `with_input` adds the document's text as "input". Raises NoSuchJob.
    """
    rows = _documents(database, job_id, OutcomeRow.status == "done", with_input=with_input)
    for row in islice(rows, limit):
        result = {
            "id": row.key,
            "task": row.kind,
            **_output(row),
            "tokens_in": row.tokens_in,
            "tokens_out": row.tokens_out,
            "flags": [*row.document_flags, *row.flags],
            "meta": row.meta,
        }
        yield result | {"input": row.input} if with_input else result


def _output(row: Any) -> dict[str, Any]:
    if row.vector is None:
        return {"text": row.text}
    vector = np.frombuffer(row.vector, dtype="<f4")
    if row.data and "windows" in row.data:
        return {"vector": vector.reshape(-1, row.data["dim"]), "windows": row.data["windows"]}
    return {"vector": vector}


def failures(database: Database, job_id: int) -> Iterator[dict[str, Any]]:
    """What has no result: failed and skipped documents {"id", "status", "class", "reason"}, then rejected records."""
    for row in _documents(database, job_id, OutcomeRow.status != "done"):
        yield {"id": row.key, "status": row.status, "class": row.reason_class, "reason": row.reason}
    job = require(database, job_id)
    last = ""
    while True:
        with database.read() as connection:
            page = connection.execute(
                select(Rejection.place, Rejection.reason)
                .where(Rejection.ingest_id == job.ingest_id, Rejection.place > last)
                .order_by(Rejection.place)
                .limit(PAGE)
            ).all()
        for row in page:
            yield {"id": row.place, "status": "rejected", "class": "document", "reason": row.reason}
        if len(page) < PAGE:
            return
        last = page[-1].place


def _documents(database: Database, job_id: int, wanted: Any, *, with_input: bool = False) -> Iterator[Any]:
    """Documents of the job with their outcome, page by page: no transaction stays open while the caller works."""
    job = require(database, job_id)
    position: tuple[int, int] | None = None
    query = (
        select(
            Document.id,
            Document.key,
            Document.seq,
            Document.meta,
            Document.flags.label("document_flags"),
            SpecRow.kind,
            OutcomeRow.status,
            OutcomeRow.text,
            OutcomeRow.vector,
            OutcomeRow.data,
            OutcomeRow.reason,
            OutcomeRow.reason_class,
            OutcomeRow.flags,
            OutcomeRow.tokens_in,
            OutcomeRow.tokens_out,
            *([Content.text.label("input")] if with_input else []),
        )
        .select_from(Document)
        .join(Step, and_(Step.job_id == job_id, Step.seq == 0))
        .join(SpecRow, SpecRow.id == Step.spec_id)
        .join(
            OutcomeRow,
            and_(OutcomeRow.spec_id == Step.spec_id, OutcomeRow.content_id == Document.content_id),
        )
        .where(visible(job), or_(wanted))
        .order_by(Document.seq, Document.id)
        .limit(PAGE)
    )
    if with_input:
        query = query.join(Content, Content.id == Document.content_id)
    while True:
        after = query if position is None else query.where(tuple_(Document.seq, Document.id) > position)
        with database.read() as connection:
            page = connection.execute(after).all()
        yield from page
        if len(page) < PAGE:
            return
        position = (page[-1].seq, page[-1].id)


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
    """Write lines beside the target and rename, so that no partial file ever has its name. Returns how many."""
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
