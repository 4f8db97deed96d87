"""The results of a step as an Arrow table, read by one query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Result, Select, Text, cast

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Content, Document, Job
from docmill.storage.core.transaction import IN_BINARY
from docmill.storage.outputs.columns import Column
from docmill.storage.outputs.output_types import CONFIDENCE
from docmill.storage.steps import lineage
from docmill.storage.steps.choosing import as_text
from docmill.storage.steps.jobs import require
from docmill.storage.steps.steps import OpenStep, find_named_way, read_steps
from docmill.storage.writers import arrow
from docmill.storage.writers.arrow import ResultColumns

if TYPE_CHECKING:
    from pyarrow import Table

PAGE_ROWS = 5_000
FETCHED_ROWS = 300  # rows at a time: so few that Python sees no need to collect garbage
_OUTCOME = ("text", "vector", "tokens_in", "tokens_out", *CONFIDENCE)


def read_table(
    database: Database, job_id: int, columns: Sequence[Column], step: str | None = None, *, with_input: bool = False
) -> Table:
    """Return the done documents of a step of a job, or of its only one, as a table with columns of `results.columns`.

    It has the same rows and values as `results.results`, in the same order. Needs pyarrow. Raises NotFound.
    """
    job = require(database, job_id)
    with database.read() as transaction:
        way = find_named_way(read_steps(transaction, job_id), step)
        output = transaction.kind_of(way[-1].lane).output
        query = query_of(job, way, with_input=with_input)
        names = list(query.selected_columns.keys())
        transaction.prefer_index_order()
        options = {"stream_results": True, "yield_per": FETCHED_ROWS, IN_BINARY: True}
        result = transaction.execute(query, execution_options=options)
        pages = (ResultColumns(way[-1].lane, output, values) for values in _by_column(result, names))
        return arrow.join_tables([page.table(columns) for page in pages], columns)


def _by_column(result: Result[*tuple[object, ...]], names: Sequence[str]) -> Iterator[dict[str, list[object]]]:
    """Yield the values of many rows, by their columns."""
    values: dict[str, list[object]] = {name: [] for name in names}
    for rows in result.partitions():
        for column, more in zip(values.values(), zip(*rows, strict=True), strict=True):
            column.extend(more)
        if len(values[names[0]]) >= PAGE_ROWS:
            yield values
            values = {name: [] for name in names}
    if values[names[0]]:
        yield values


def query_of(job: Job, way: Sequence[OpenStep], *, with_input: bool = False) -> Select[*tuple[object, ...]]:
    """Return the query for the documents with a result at the last step of a path. JSON comes as text."""
    of_document = (
        Document.key,
        cast(Document.meta, Text).label("meta"),
        as_text(Document.flags).label("document_flags"),
    )
    query, outcome = lineage.select_done(job, way)
    of_outcome = (
        *(outcome[name] for name in _OUTCOME),
        cast(outcome.data, Text).label("data"),
        as_text(outcome.flags).label("flags"),
    )
    query = query.add_columns(*of_document, *of_outcome)
    if with_input:
        content = Content.__table__.alias()
        query = query.add_columns(content.c.text.label("input")).join(content, content.c.id == Document.content_id)
    return query.order_by(Document.seq, Document.id)
