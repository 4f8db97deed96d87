"""Outputs beside their inputs, as a reviewer reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from storage.core.database import Database
from storage.core.schema import Content, Document, OutcomeRow
from storage.reviews.population import ReviewedStep


@dataclass(frozen=True)
class Item:
    """An output with the text that it was computed from, and the id of a document with that text."""

    content_id: int
    sha256: bytes
    document: str
    input: str
    output: str


def items(database: Database, reviewed: ReviewedStep, documents: Mapping[int, int]) -> list[Item]:
    """Return the outputs of contents, in the given order. `documents` has a document's id for each content."""
    outcome = (OutcomeRow.text, OutcomeRow.vector, OutcomeRow.data)
    query = (
        select(Content.id, Content.sha256, Content.text.label("input"), *outcome)
        .join(OutcomeRow, OutcomeRow.content_id == Content.id)
        .where(OutcomeRow.spec_id == reviewed.step.spec_id, OutcomeRow.status == "done")
    )
    with database.read() as transaction:
        rows = {row.id: row for row in transaction.probe(query, Content.id, [*documents])}
        named = transaction.probe(select(Document.id, Document.key), Document.id, [*{*documents.values()}])
    keys = {row.id: row.key for row in named}
    return [
        Item(content_id, row.sha256, keys[document_id], row.input, _shown(database, reviewed, row))
        for content_id, document_id in documents.items()
        if (row := rows.get(content_id)) is not None and document_id in keys
    ]


def _shown(database: Database, reviewed: ReviewedStep, row: Any) -> str:
    if isinstance(row.text, str):
        return row.text
    output = database.kind_of(reviewed.step.lane).output
    return output.shown(output.result(row))
