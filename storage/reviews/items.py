"""Outputs beside their inputs, as a reviewer reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.outcomes import Status
from docmill.storage.core.schema import Content, Document, OutcomeRow
from docmill.storage.outputs.output_types import Stored
from docmill.storage.reviews.population import ReviewedStep
from docmill.storage.steps import choosing


@dataclass(frozen=True)
class Item:
    """An output with the text that it was computed from, and the id of a document with that text.

    `spec` is the SHA-256 of the spec that computed it.
    """

    content_id: int
    sha256: bytes
    document: str
    input: str
    output: str
    spec: str


def items(database: Database, reviewed: ReviewedStep, documents: Mapping[int, int]) -> list[Item]:
    """Return the outputs of contents, in the given order. `documents` has a document's id for each content."""
    columns = (OutcomeRow.status, OutcomeRow.spec_id, OutcomeRow.text, OutcomeRow.vector, OutcomeRow.data)
    texts = select(Content.id, Content.sha256, Content.text)
    with database.read() as transaction:
        outputs = choosing.chosen(transaction, reviewed.step, [*documents], columns)
        inputs = {row.id: row for row in transaction.probe(texts, Content.id, [*documents])}
        named = transaction.probe(select(Document.id, Document.key), Document.id, [*{*documents.values()}])
    keys = {row.id: row.key for row in named}
    found = []
    for content_id, document_id in documents.items():
        row, given = outputs.get(content_id), inputs.get(content_id)
        if row is not None and row.status == Status.DONE and given is not None and document_id in keys:
            shown, spec = _shown(database, reviewed, row), reviewed.specs[row.spec_id]
            found.append(Item(content_id, given.sha256, keys[document_id], given.text, shown, spec))
    return found


def _shown(database: Database, reviewed: ReviewedStep, row: Stored) -> str:
    if isinstance(row.text, str):
        return row.text
    output = database.kind_of(reviewed.step.lane).output
    return output.shown(output.result(row))
