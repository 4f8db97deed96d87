"""What a step's template makes of each document: the rendered prompt is the content that the step computes.

A document never changes, so its prompt under a spec is rendered once, in the transaction that plans it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_, select

from storage import bulk, contents, gate
from storage.database import Database
from storage.schema import Content, Document, Prompt
from storage.steps import OpenStep, Planned, meet, take_in


def plan(
    database: Database, connection: Connection, job_id: int, steps: Iterable[OpenStep], document_ids: Sequence[int]
) -> Planned:
    """Plan what the templates of a job's steps make of these documents, as far as the job has not met it."""
    total = Planned()
    for step in steps:
        if step.template is not None and document_ids:
            gate.refer(database, connection)
            ids, fresh = _rendered(database, connection, step, document_ids)
            new = meet(database, connection, job_id, step.seq, sorted({*ids}))
            sizes = {content_id: fresh[content_id] for content_id in new if content_id in fresh}
            total += take_in(database, connection, job_id, step, new, sizes)
    return total


def roots(database: Database, connection: Connection, step: OpenStep, read: Mapping[int, int]) -> Mapping[int, int]:
    """What a step that reads documents computes of each: {document: content}, given their own contents.

    Documents that it has not met yet are left out.
    """
    return read if step.template is None else _known(database, connection, step.spec_id, [*read])


def read_by(query: Any, step: OpenStep) -> tuple[Any, Any]:
    """A query over documents, and the column of it with the content that a step computes of each."""
    if step.template is None:
        return query, Document.content_id
    of_step = and_(Prompt.document_id == Document.id, Prompt.spec_id == step.spec_id)
    return query.join(Prompt, of_step), Prompt.content_id


def _known(database: Database, connection: Connection, spec_id: int, document_ids: Sequence[int]) -> dict[int, int]:
    query = select(Prompt.document_id, Prompt.content_id).where(Prompt.spec_id == spec_id)
    found = database.probe(connection, query, Prompt.__table__.c.document_id, document_ids)
    return {row.document_id: row.content_id for row in found}


def _rendered(
    database: Database, connection: Connection, step: OpenStep, document_ids: Sequence[int]
) -> tuple[list[int], dict[int, int]]:
    """The prompts of these documents as contents, and the characters of those that are new."""
    assert step.template is not None
    known = _known(database, connection, step.spec_id, document_ids)
    query: Any = select(Document.id, Document.meta, Content.text).join(Content, Content.id == Document.content_id)
    lacking = [document_id for document_id in document_ids if document_id not in known]
    texts, hashes = {}, {}
    for row in database.probe(connection, query, Document.__table__.c.id, lacking):
        prompt = step.template.render(row.text, row.meta)
        hashes[row.id] = hashlib.sha256(prompt.encode()).digest()
        texts[hashes[row.id]] = prompt
    if not texts:
        return [*known.values()], {}
    stored, fresh = contents.store(database, connection, texts)
    made = {document_id: stored[sha256] for document_id, sha256 in hashes.items()}
    columns: bulk.Columns = {
        "spec_id": [step.spec_id] * len(made),
        "document_id": [*made],
        "content_id": [*made.values()],
    }
    bulk.load(database, connection, Prompt, columns)  # whoever plans documents holds their corpus's lock
    return [*known.values(), *made.values()], fresh
