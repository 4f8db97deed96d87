"""Sources that are no files: texts, dictionaries and Arrow tables of a Python program.

https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html describes the interface, which pandas,
polars, pyarrow, DuckDB and others have.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from docmill.storage.extras import PARQUET
from docmill.storage.readers.errors import ProgramFailed, SourceError, SourceUnsupported
from docmill.storage.readers.files import Source, read_once
from docmill.storage.readers.records import Record, Rejection, Row, Rows, SourceOptions, check_columns, refuse_options
from docmill.storage.readers.table import as_row, rows_in_batch, slices

if TYPE_CHECKING:
    from pyarrow import RecordBatch, RecordBatchReader

T = TypeVar("T")
NAME = "python"
PLACE = "row"  # `row:0` is the first one
_DIGEST_CHARS = 16
_JSON = "extension<arrow.json"
_INDEX = re.compile(r"__index_level_\d+__")  # pandas' name for row labels without a name
_EXPECTED = "give a list of texts or of dictionaries, a pandas or polars frame, an Arrow table, or a source's name"


class MemorySource(Source):
    """A source in memory, which is read once. The id of a document without one is its position, from 0.

    Without a named corpus, the source's name has a digest of the documents, so that the same documents are the same
    corpus. For an iterator it has the time instead. Raises SourceError.
    """

    def __init__(self, data: object, options: SourceOptions, *, has_corpus: bool) -> None:
        _check(data)
        refuse_options("a program", options)
        self.name = NAME if has_corpus else f"{NAME} {_digest(data, options)}"
        self._once = _is_read_once(data) and not has_corpus
        self._records = read_once(_rows(data, options), PLACE, options)

    def records(self) -> Iterator[Record | Rejection]:
        try:
            yield from self._records
        except ProgramFailed as error:
            error.once = self._once
            raise


def _check(data: object) -> None:
    """Raise SourceError for data of a type that is not read, and for a table without pyarrow."""
    if _is_table(data):
        PARQUET.require("a table", error=SourceUnsupported)
    elif isinstance(data, bytes | bytearray | Mapping) or _has_columns(data) or not isinstance(data, Iterable):
        raise SourceError(f"{type(data).__name__} is not read; {_EXPECTED}")


def _is_table(data: object) -> bool:
    """Return True for a table with Arrow's interface; a single column has neither columns nor a schema."""
    speaks = hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__")
    return speaks and _has_columns(data)


def _has_columns(data: object) -> bool:
    # Ask the type: a lazy frame would compute its columns.
    return hasattr(type(data), "columns") or hasattr(type(data), "schema")


def named_by_digest(data: object) -> str:
    """Return the name of documents with their digest; without it if they can be read only once."""
    _check(data)
    return NAME if _is_read_once(data) else f"{NAME} {_digest(data, SourceOptions())}"


def _is_read_once(data: object) -> bool:
    return isinstance(data, Iterator) or hasattr(data, "read_next_batch")


def _digest(data: object, options: SourceOptions) -> str:
    """Return a digest of the documents, or the time if they can be read only once."""
    if _is_read_once(data):
        return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    digest = hashlib.sha256(json.dumps([options.text_field, options.id_field]).encode())
    for row in _rows(data, options):
        digest.update(json.dumps(row.fields if isinstance(row, Row) else row.reason).encode())
    return digest.hexdigest()[:_DIGEST_CHARS]


def _rows(data: object, options: SourceOptions) -> Rows:
    if _is_table(data):
        yield from _rows_of_table(data, options)
        return
    values: Iterable[object] = data.to_pylist() if hasattr(data, "to_pylist") else data  # type: ignore[assignment]
    for position, value in enumerate(_given(values)):
        fields: Mapping[Any, object] = value if isinstance(value, Mapping) else {options.text_field: value}
        named = {str(name): field for name, field in fields.items()}
        yield _with_id(as_row(named, f"{PLACE}:{position}", options), position, options)


def _given(values: Iterable[T]) -> Iterator[T]:
    """Yield the values of a program. Raises ProgramFailed for the program's own errors."""
    try:
        yield from values
    except Exception as error:
        raise ProgramFailed(f"the documents of the program raised {type(error).__name__}") from error


def _rows_of_table(table: object, options: SourceOptions) -> Rows:
    reader = _reader(table)
    as_json = frozenset(field.name for field in reader.schema if str(field.type).startswith(_JSON))
    columns = [name for name in reader.schema.names if not _INDEX.fullmatch(name)]
    check_columns(columns, "the table", options)
    position = 0
    for batch in _given(reader):
        for part in slices(batch.select(columns)):
            for number, row in enumerate(rows_in_batch(part, position, PLACE, options, as_json), position):
                yield _with_id(row, number, options)
            position += part.num_rows


def _reader(table: object) -> RecordBatchReader:
    """Return the table's batches. Raises SourceError for a table that Arrow cannot represent."""
    import pyarrow

    try:
        if hasattr(table, "__arrow_c_stream__"):
            return pyarrow.RecordBatchReader.from_stream(table)
        batch: RecordBatch = pyarrow.record_batch(table)
        return pyarrow.RecordBatchReader.from_batches(batch.schema, [batch])
    except (pyarrow.ArrowException, TypeError) as error:
        raise SourceError(f"the table cannot be read as an Arrow table: {error}") from error


def _with_id(row: Row | Rejection, position: int, options: SourceOptions) -> Row | Rejection:
    """Return a row with its position as the id, if it has no field `id` and no other field was named."""
    if isinstance(row, Row) and options.id_field == SourceOptions.id_field:
        row.fields.setdefault(options.id_field, position)
    return row


@dataclass
class NoSource(Source):
    """A source without records: a job over it computes the documents that its corpus has."""

    name: str

    def size_bytes(self) -> int | None:
        """Return 0."""
        return 0

    def records(self) -> Iterator[Record | Rejection]:
        """Yield nothing."""
        yield from ()
