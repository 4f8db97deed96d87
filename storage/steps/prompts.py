"""Render a step's template for each document. The rendered prompt is the content that the step computes.

Neither a document nor a text ever changes. So the prompt of a document and a text under a spec is rendered once, in
the transaction that plans it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TypeVarTuple

from sqlalchemy import ColumnElement, Select, and_, select

from docmill.storage.core import lookups
from docmill.storage.core.schema import Content, Document, Prompt
from docmill.storage.core.transaction import Columns, Transaction
from docmill.storage.steps.steps import OpenStep

Ts = TypeVarTuple("Ts")


def of(transaction: Transaction, step: OpenStep, given: Mapping[int, int]) -> Mapping[int, int]:
    """Return {document: prompt's content} of a step for documents and the texts that it reads of them.

    Documents whose prompt was not rendered yet are left out.
    """
    if step.template is None:
        return given
    query = select(Prompt.document_id, Prompt.text_id, Prompt.content_id).where(Prompt.spec_id == step.spec_id)
    found = transaction.probe(query, Prompt.document_id, [*given])
    return {row.document_id: row.content_id for row in found if row.text_id == given[row.document_id]}


def joined(
    query: Select[*Ts], step: OpenStep, given: ColumnElement[int], *, outer: bool = False
) -> tuple[Select[*Ts], ColumnElement[int]]:
    """A query over documents, and the column of it with what a step computes of each, by that of what it is given.

    `outer` keeps the documents whose prompt was not rendered yet.
    """
    if step.template is None:
        return query, given
    prompt = Prompt.__table__.alias(f"prompt_{step.seq}")
    of_step = and_(prompt.c.document_id == Document.id, prompt.c.spec_id == step.spec_id, prompt.c.text_id == given)
    return query.join(prompt, of_step, isouter=outer), prompt.c.content_id


def render(transaction: Transaction, step: OpenStep, given: Mapping[int, int]) -> tuple[list[int], dict[int, int]]:
    """The prompts of documents around the texts that the step is given of them, as contents, each once.

    Also the characters of those that are new. Call `advisory_locks.refer` before.
    """
    assert step.template is not None
    known = of(transaction, step, given)
    lacking = [document_id for document_id in given if document_id not in known]
    written = _texts(transaction, {given[document_id] for document_id in lacking})
    query = select(Document.id, Document.meta)
    texts, hashes = {}, {}
    for row in transaction.probe(query, Document.id, lacking):
        prompt = step.template.render(written[given[row.id]], row.meta)
        hashes[row.id] = hashlib.sha256(prompt.encode()).digest()
        texts[hashes[row.id]] = prompt
    if not texts:
        return sorted({*known.values()}), {}
    stored, fresh = lookups.store_contents(transaction, texts)
    made = {document_id: stored[sha256] for document_id, sha256 in sorted(hashes.items())}
    columns: Columns = {
        "spec_id": [step.spec_id] * len(made),
        "document_id": [*made],
        "text_id": [given[document_id] for document_id in made],
        "content_id": [*made.values()],
    }
    transaction.insert_missing(Prompt, columns)  # another job may render the same ones, to the same contents
    return sorted({*known.values(), *made.values()}), fresh


def _texts(transaction: Transaction, content_ids: set[int]) -> dict[int, str]:
    query = select(Content.id, Content.text)
    return {row.id: row.text for row in transaction.probe(query, Content.id, content_ids)}
