"""Which contents a job still has to plan, each once, without a table of what was planned.

A job walks its own documents as it adds them, and once its source was read those that others brought into the
corpus, in the order of their ids, up to `swept_to`: every one that was current when that sweep began, or came later.
So a content was planned, or counted as prior, if and only if a document has it that was walked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, func, or_, select, update

from storage import gate
from storage.database import Database
from storage.flow.following import Planned, has_prompts, plan_prompts, take_in
from storage.jobs import OpenJob
from storage.schema import Content, Document, Job

SWEEP_DOCUMENTS = 5_000  # that are planned in a transaction
NEAR_DOCUMENTS = 100_000  # that are looked at for them


@dataclass(frozen=True)
class Place:
    """Where a job stands in its corpus (see `storage.schema.Job`)."""

    base_document: int
    swept_to: int


def sweep_page(database: Database, connection: Connection, job: OpenJob, place: Place) -> tuple[Planned, bool]:
    """Plan the next documents that others brought into the corpus. Also says whether there may be more."""
    begin(database, connection, job)
    if place.swept_to == 0:
        place = _begin(connection, job)
    database.walk(connection)
    near = (
        select(Document.id, Document.content_id, Document.ingest_id, Document.superseded_by, Document.gone)
        .where(Document.corpus_id == job.corpus_id, Document.id > place.swept_to)
        .order_by(Document.id)
        .limit(NEAR_DOCUMENTS)
        .subquery()
    )
    # Those that the job's own source brought, most often all, are left to the database: to fetch them took a third
    # of the time in which a million documents were read in.
    others = connection.execute(
        select(near.c.id, near.c.content_id)
        .where(near.c.ingest_id != job.ingest_id, _since(place, near.c.superseded_by), ~near.c.gone)
        .order_by(near.c.id)
        .limit(SWEEP_DOCUMENTS)
    ).all()
    if len(others) == SWEEP_DOCUMENTS:
        last, more = others[-1].id, True
    else:
        last, n_near = connection.execute(select(func.max(near.c.id), func.count()).select_from(near)).one()
        more = n_near == NEAR_DOCUMENTS
    if last is None:
        return Planned(), False
    planned = plan_new(database, connection, job, place, [document.content_id for document in others])
    own = {document.id: document.content_id for document in others}
    planned += plan_prompts(database, connection, job.id, job.steps, own)
    connection.execute(update(Job).where(Job.id == job.id).values(swept_to=last))
    return planned, more


def begin(database: Database, connection: Connection, job: OpenJob) -> None:
    """Begin to walk documents of a job. Call it before looking for any."""
    if has_prompts(job.steps):
        gate.refer(database, connection)  # first, as whoever leads an output on does
        gate.walk(database, connection, job.id)


def _begin(connection: Connection, job: OpenJob) -> Place:
    last = connection.scalar(select(func.max(Document.id)).where(Document.corpus_id == job.corpus_id)) or 0
    connection.execute(update(Job).where(Job.id == job.id).values(base_document=last))
    return Place(last, 0)


def plan_new(
    database: Database,
    connection: Connection,
    job: OpenJob,
    place: Place,
    content_ids: Sequence[int],
    fresh: dict[int, int] | None = None,
) -> Planned:
    """Plan those of these contents that the job has not met. Call it before their documents are walked.

    What templates make of the documents is planned once these are stored (`plan_prompts`).
    `fresh` gives the characters of contents that nobody can have met.
    """
    unique = list(dict.fromkeys(content_ids))
    met = _met(
        database, connection, job, place, [content_id for content_id in unique if content_id not in (fresh or {})]
    )
    new = [content_id for content_id in unique if content_id not in met]
    total = Planned()
    for step in job.steps:
        if step.input_step is None and step.template is None:
            total += take_in(database, connection, job.id, step, new, fresh)
    return total


def _since(place: Place, superseded_by: Any = Document.superseded_by) -> Any:
    """The condition for a document to be current when the sweep began, or later."""
    return or_(superseded_by.is_(None), superseded_by > place.base_document)


def _met(database: Database, connection: Connection, job: OpenJob, place: Place, content_ids: list[int]) -> set[int]:
    # A look-up for each content that stops at the first document: a text may have a million of them. OFFSET 0 keeps
    # PostgreSQL from making one join of it (see `Database.probe`).
    walked = (
        select(Document.id)
        .where(
            Document.content_id == Content.id,
            Document.corpus_id == job.corpus_id,
            ~Document.gone,
            or_(Document.ingest_id == job.ingest_id, and_(Document.id <= place.swept_to, _since(place))),
        )
        .offset(0)
        .correlate(Content)
    )
    query = select(Content.id).where(walked.exists())
    return {row.id for row in database.probe(connection, query, Content.id, content_ids)}
