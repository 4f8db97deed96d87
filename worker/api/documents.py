"""The documents of a call, the records that were read from them, and tables of their results."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import orjson

from docmill.storage.core.database import Database
from docmill.storage.extras import PARQUET
from docmill.storage.outputs.columns import Column, Form, OutputColumn
from docmill.storage.readers import Record, Rejection, Source, SourceMissing, SourceOptions, open_source
from docmill.storage.readers.memory import NAME, MemorySource, named_by_digest
from docmill.storage.results.results import columns, has_several_steps, inputs, results
from docmill.worker.api.errors import Error

if TYPE_CHECKING:
    from pyarrow import Table


class ArrowTable(Protocol):
    """A table with Arrow's interface: of pandas, polars, pyarrow, DuckDB and others."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...


During: TypeAlias = Callable[[], AbstractContextManager[None]]
Documents: TypeAlias = str | os.PathLike[str] | Iterable[str | None] | Iterable[Mapping[str, Any]] | ArrowTable


@dataclass(frozen=True, slots=True)
class Read:
    """A record that was read; a rejected one has a `reason`. Records with the same key and digest share a result."""

    where: str
    key: str | None
    digest: bytes = b""
    reason: str | None = None


class ReadOnce:
    """Documents that are read once, inside `during`. `read` has the records so far, in order."""

    def __init__(self, documents: Documents, during: During = nullcontext) -> None:
        self._documents = documents
        self._during = during
        self.name = os.fspath(documents) if isinstance(documents, str | os.PathLike) else NAME
        self.read: list[Read] = []

    @property
    def digested(self) -> str:
        """The name. Documents that can be read twice add a digest, so that other documents have another name."""
        return named_by_digest(self._documents) if self.name == NAME else self.name

    def open(self, options: SourceOptions, *, has_corpus: bool) -> Source:
        """Open the source. Raises SourceError."""
        if isinstance(self._documents, str | os.PathLike):
            try:
                return _Noted(open_source(self.name, options), self.read, self._during)
            except SourceMissing as error:
                raise SourceMissing(f"{error}; texts go into a list, also a single one") from error
        return _Noted(MemorySource(self._documents, options, has_corpus=has_corpus), self.read, self._during)


class _Noted(Source):
    """A source whose records are noted as they are read."""

    def __init__(self, source: Source, read: list[Read], during: During) -> None:
        self.name = source.name
        self.ignored, self.reasons = source.ignored, source.reasons  # which grow as the source is read
        self._during = during
        self._source = source
        self._read = read

    @property
    def bytes_read(self) -> int:
        return self._source.bytes_read

    def size_bytes(self) -> int | None:
        """Return the size of the source in bytes; None if it is unknown."""
        return self._source.size_bytes()

    def records(self) -> Iterator[Record | Rejection]:
        with self._during():
            for record in self._source.records():
                self._read.append(_noted(record))
                yield record


def _noted(record: Record | Rejection) -> Read:
    if isinstance(record, Rejection):
        key = record.keys[0] if len(record.keys) == 1 else None
        return Read(record.where, key, reason=record.reason)
    return Read(record.where, record.key, sha256(record.text.encode() + orjson.dumps(record.meta)).digest())


class Turns:
    """A lock that refuses a run whose own documents ask for it: it would wait for itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: set[int] = set()  # threads that run, or read the documents of a run

    def __enter__(self) -> None:
        if threading.get_ident() in self._inside:
            raise Error("documents cannot run docmill while a run reads them: compute them first, as a list")
        self._lock.acquire()
        self._inside.add(threading.get_ident())

    def __exit__(self, *error: object) -> None:
        self._inside.remove(threading.get_ident())
        self._lock.release()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count this thread to the run whose documents it reads."""
        mine = threading.get_ident()
        if mine in self._inside:
            yield
            return
        self._inside.add(mine)
        try:
            yield
        finally:
            self._inside.discard(mine)


one_run_at_a_time = Turns()


RowsByKey: TypeAlias = Mapping[tuple[str, str | None], Mapping[str, Any]]

_KEY, _PLACE = "key", "place"
_SUPERSEDED = "a later row has the same id and other contents"
_ABOUT = (Column.of("status", Form.TEXT), Column.of("reason", Form.TEXT))


def require_arrow() -> None:
    """Raise Error if pyarrow is not installed."""
    PARQUET.require("a table of results", error=Error)


def make_table_by_row(database: Database, job_id: int, read: Sequence[Read], *, with_input: bool) -> Table:
    """Return a table with a row for each record that was read, in their order.

    "status" is done, failed, skipped, rejected, superseded or, with `leave_out`, left out; "reason" says why there
    is no result.
    """
    from docmill.storage.writers import arrow

    rows_by_key = _read_rows(database, job_id, read, with_input=with_input)
    reasons = [record.reason or rows_by_key.get((_PLACE, record.where), {}).get("reason") for record in read]
    last = {record.key: record.digest for record, reason in zip(read, reasons, strict=True) if reason is None}
    rows = [_row(record, reason, last, rows_by_key) for record, reason in zip(read, reasons, strict=True)]
    return arrow.table(_columns(columns(database, job_id, with_input=with_input), _ABOUT), rows)


def make_table_of_job(database: Database, job_id: int, step: str | None, *, with_input: bool) -> Table:
    """Return a table of the results of a job or of one of its steps."""
    from docmill.storage.results.columnar import read_table
    from docmill.storage.writers import arrow

    wanted = _columns(columns(database, job_id, step, with_input=with_input))
    if step is None and has_several_steps(database, job_id):
        return arrow.table(wanted, list(results(database, job_id, with_input=with_input)))
    return read_table(database, job_id, wanted, step, with_input=with_input)


def _read_rows(database: Database, job_id: int, read: Sequence[Read], *, with_input: bool) -> RowsByKey:
    """Return results and failures by the key of their document, and rejections by the place of their record."""
    wanted = {(_KEY, record.key) for record in read} | {(_PLACE, record.where) for record in read}
    rows = {}
    for row in inputs(database, job_id, with_input=with_input):
        place = (_PLACE if row["outcome"] == "rejected" else _KEY, row["id"])
        # A superseded row has the result of the later row that it equals.
        if place in wanted and row["outcome"] in {"done", "failed", "skipped", "rejected", "left out"}:
            rows[place] = {**row, "status": row["outcome"]}
    return rows


def _row(
    record: Read, rejected: str | None, last: Mapping[str | None, bytes], rows_by_key: RowsByKey
) -> Mapping[str, Any]:
    if rejected is not None:
        return {"id": record.key, "status": "rejected", "reason": rejected}
    if last[record.key] != record.digest:
        return {"id": record.key, "status": "superseded", "reason": _SUPERSEDED}
    return rows_by_key.get((_KEY, record.key), {"id": record.key, "status": "removed"})


def _columns(of_results: Sequence[Column], about: Sequence[Column] = ()) -> list[Column]:
    """Return the columns of a table. A record's property whose name is taken is called `record_NAME`."""
    taken = {column.name for column in (*of_results, *about) if not isinstance(column, OutputColumn)}
    first, *rest = [
        replace(column, name=f"record_{column.name}")
        if isinstance(column, OutputColumn) and column.name in taken
        else column
        for column in of_results
    ]
    return [first, *about, *rest]
