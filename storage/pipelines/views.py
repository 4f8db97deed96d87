"""SQL views of stored pipelines: a pipeline's corpus as it is now, with every step's result. An admin makes them.

The columns are `id`, `meta`, `flags` and `document` (the text). Each step adds the columns of its output (`STEP` is a
text, `STEP_vector` float32 numbers, little-endian; see `storage.outputs.output_types`), `STEP_status` (done, failed,
skipped, blocked, or NULL before it is computed) and `STEP_reason`. The columns of each step's confidence follow,
unless another column has the name. A step whose outputs are lists, such as spans, has a view of its own with a row
for each item. The views follow the corpus; a pipeline that is added again gets new views.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    and_,
    case,
    inspect,
    or_,
    select,
    true,
    type_coerce,
)

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import is_current_document
from docmill.storage.core.schema import Content, Corpus, Document, Json
from docmill.storage.core.transaction import Transaction
from docmill.storage.outputs.columns import Form
from docmill.storage.outputs.json_columns import selected
from docmill.storage.outputs.output_types import OutputType
from docmill.storage.steps import fitted_risks, lineage, steps
from docmill.storage.steps.steps import OpenStep, StepRequest

NAME_BYTES = 63  # of a name in PostgreSQL
_OF_DOCUMENTS = ("id", "meta", "flags", "document")


def name_of(pipeline: str) -> str:
    """Return the name of a pipeline's view."""
    return f"pipeline_{_plain(pipeline)}"


def share_views(pipeline: str, other: str) -> bool:
    """Return True if one of two pipelines would remove views of the other."""
    prefixes = _items_prefix(pipeline), _items_prefix(other)
    return prefixes[0].startswith(prefixes[1]) or prefixes[1].startswith(prefixes[0])


def clash(requests: Sequence[tuple[StepRequest, OutputType]]) -> tuple[str, str, str] | None:
    """Return two steps (or "the documents" and a step) with a column that both would have in the view; else None.

    Names are compared in lower case, as SQLite does, and as PostgreSQL cuts them, at 63 bytes.
    """
    owners = {name.encode(): "the documents" for name in _OF_DOCUMENTS}
    for request, output in requests:
        columns = output.columns(request.spec.params)
        suffixes = [column.suffix for column in columns if column.sql is not None and column.suffix is not None]
        for suffix in (*suffixes, "_status", "_reason"):
            name = request.name + suffix
            known_as = name.encode().lower()[:NAME_BYTES]
            if known_as in owners:
                return owners[known_as], request.name, name
            owners[known_as] = request.name
    return None


def too_long(pipeline: str, requests: Sequence[tuple[StepRequest, OutputType]]) -> tuple[str, str] | None:
    """Return a step and the name of its view of items, if PostgreSQL would cut the name; else None."""
    for request, output in requests:
        name = _items_name(pipeline, request.name)
        if output.items(request.spec.params) is not None and len(name) > NAME_BYTES:
            return request.name, name
    return None


def make(database: Database, pipeline: str, corpus: str, requests: Sequence[StepRequest]) -> None:
    """Make the views of a pipeline in place of existing ones. Needs the right to make views."""

    def work(transaction: Transaction) -> None:
        _drop(transaction, pipeline)
        for name, query in _make_queries(transaction, pipeline, corpus, requests):
            _create(transaction, name, query)

    database.write(work)


def replace_in(transaction: Transaction, pipeline: str, corpus: str, requests: Sequence[StepRequest]) -> None:
    """Replace the views of a pipeline by views of other specs for the same steps, with the same columns.

    On a server the views keep their grants, and the views over them.
    """
    for name, query in _make_queries(transaction, pipeline, corpus, requests):
        if transaction.server is None:
            transaction.exec_driver_sql(f"DROP VIEW IF EXISTS {_quoted(name)}")
        _create(transaction, name, query, "VIEW" if transaction.server is None else "OR REPLACE VIEW")


def _make_queries(
    transaction: Transaction, pipeline: str, corpus: str, requests: Sequence[StepRequest]
) -> list[tuple[str, Any]]:
    """Return the names of the views of a pipeline, with their queries.

    Raises StorageError for an escalation by a risk that was not fitted.
    """
    opened = steps.open_steps(transaction, fitted_risks.resolve_risks(transaction, requests))
    queries = [(name_of(pipeline), _of_documents(transaction, corpus, opened))]
    for step in opened:
        if (items := transaction.kind_of(step.lane).output.items(step.params)) is not None:
            query = _of_items(transaction, corpus, steps.find_way(opened, step), *items)
            queries.append((_items_name(pipeline, step.name), query))
    return queries


def drop(database: Database, pipeline: str) -> None:
    """Drop the views of a pipeline, if there are any."""
    database.write(lambda transaction: _drop(transaction, pipeline))


def _drop(transaction: Transaction, pipeline: str) -> None:
    prefix = _items_prefix(pipeline)
    beside = [name for name in inspect(transaction.connection).get_view_names() if name.startswith(prefix)]
    for name in (name_of(pipeline), *beside):
        transaction.exec_driver_sql(f"DROP VIEW IF EXISTS {_quoted(name)}")


def _create(transaction: Transaction, name: str, query: Select[*tuple[Any, ...]], what: str = "VIEW") -> None:
    compiled = query.compile(dialect=transaction.connection.dialect, compile_kwargs={"literal_binds": True})
    transaction.exec_driver_sql(f"CREATE {what} {_quoted(name)} AS {compiled}")


def _of_documents(transaction: Transaction, corpus: str, opened: Sequence[OpenStep]) -> Select[*tuple[Any, ...]]:
    query = select(Document.key.label("id"), Document.meta, Document.flags, Content.text.label("document"))
    query = query.select_from(Document).join(Content, Content.id == Document.content_id)
    query, outcomes = lineage.join_outcomes(query, opened, outer=True)
    for step in opened:
        outcome = outcomes[step.seq]
        output = transaction.kind_of(step.lane).output
        columns = [
            column.sql(outcome).label(step.name + column.suffix)
            for column in output.columns(step.params)
            if column.sql is not None and column.suffix is not None
        ]
        status: ColumnElement[Any] = outcome.c.status
        if step.input_step is not None:
            status = case((_lacks_input(opened, outcomes, step), "blocked"), else_=status)
        query = query.add_columns(
            *columns, status.label(f"{step.name}_status"), outcome.c.reason.label(f"{step.name}_reason")
        )
    query = query.add_columns(
        *_of_confidence(transaction, opened, outcomes, {column.name.lower() for column in query.selected_columns})
    )
    return query.where(_current(corpus))


def _of_confidence(
    transaction: Transaction, opened: Sequence[OpenStep], outcomes: Mapping[int, FromClause], taken: Collection[str]
) -> list[ColumnElement[Any]]:
    """Return the columns of the steps' confidence, without those whose names are taken."""
    expressions = {
        step.name + (column.suffix or ""): column.sql(outcomes[step.seq])
        for step in opened
        for column in transaction.kind_of(step.lane).output.confidence_columns(step.params)
        if column.sql is not None
    }
    return [expression.label(name) for name, expression in expressions.items() if name.lower() not in taken]


def _of_items(
    transaction: Transaction, corpus: str, way: Sequence[OpenStep], key: str, fields: Mapping[str, Form]
) -> Any:
    """Return the query for the items under a key of the outputs of a path's last step, with their documents."""
    query, outcomes = lineage.join_outcomes(select(Document.key.label("id")).select_from(Document), way)
    data = outcomes[way[-1].seq].c.data
    item = transaction.elements(data, key)
    value = type_coerce(item.c.value, Json)
    columns = [selected(value, form, name).label(name) for name, form in fields.items()]
    return query.join(item, true()).add_columns(*columns).where(_current(corpus))


def _current(corpus: str) -> ColumnElement[bool]:
    # By its name: a corpus that was removed and read anew has another id.
    of_corpus = select(Corpus.id).where(Corpus.name == corpus).scalar_subquery()
    return and_(Document.corpus_id == of_corpus, is_current_document())


def _lacks_input(
    opened: Sequence[OpenStep], outcomes: Mapping[int, FromClause], step: OpenStep
) -> ColumnElement[bool]:
    """Return the condition for a document that failed, or was skipped, at a step before this one."""
    before = steps.find_way(opened, step)[:-1]
    return or_(*(outcomes[step_before.seq].c.status.in_(["failed", "skipped"]) for step_before in reversed(before)))


def _items_prefix(pipeline: str) -> str:
    """Return the beginning of the names of a pipeline's views of items."""
    return f"items_{_plain(pipeline)}__"


def _items_name(pipeline: str, step: str) -> str:
    return f"{_items_prefix(pipeline)}{step}"


def _plain(pipeline: str) -> str:
    return pipeline.replace("-", "_").lower()


def _quoted(name: str) -> str:
    assert re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name), "pipelines and steps have plain names"
    return f'"{name}"'
