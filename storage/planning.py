"""Which contents a job still has to plan, each once, without a table of what was planned.

A job walks the documents of its corpus in the order of their ids: those of others by the sweep, up to `swept_to`,
its own as it adds them. It looks at every document that was current when the job was opened, or came later. So a
content was planned, or counted as prior, if and only if such a document has it and was walked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, or_, select, update

from storage.database import Database
from storage.jobs import OpenJob, plan
from storage.outcomes import Tally
from storage.rows import known_outcomes, n_chars
from storage.schema import Content, Document, Job

SWEEP_DOCUMENTS = 5_000


@dataclass(frozen=True)
class Planned:
    """Unique texts: those that were put into shards, and those that had an outcome before, by its status."""

    planned: int = 0
    prior_done: int = 0
    prior_failed: int = 0
    prior_skipped: int = 0


@dataclass(frozen=True)
class Place:
    """Where a job stands in its corpus (see `storage.schema.Job`)."""

    base_document: int
    swept_to: int


def sweep_page(database: Database, connection: Connection, job: OpenJob, place: Place) -> tuple[Planned, bool]:
    """Plan the next documents that others brought into the corpus. Also says whether there may be more."""
    page = connection.execute(
        select(Document.id, Document.content_id, Document.ingest_id)
        .where(Document.corpus_id == job.corpus_id, Document.id > place.swept_to, _since(place))
        .order_by(Document.id)
        .limit(SWEEP_DOCUMENTS)
    ).all()
    if not page:
        return Planned(), False
    others = [document.content_id for document in page if document.ingest_id != job.ingest_id]
    planned = plan_new(database, connection, job, place, others)
    connection.execute(update(Job).where(Job.id == job.id).values(swept_to=page[-1].id))
    return planned, len(page) == SWEEP_DOCUMENTS


def plan_new(
    database: Database,
    connection: Connection,
    job: OpenJob,
    place: Place,
    content_ids: Sequence[int],
    fresh: dict[int, int] | None = None,
) -> Planned:
    """Plan those of these contents that the job has not met. Call it before their documents are walked.

    `fresh` gives the characters of contents that nobody can have met.
    """
    sizes = dict(fresh or {})
    unique = list(dict.fromkeys(content_ids))
    met = _met(connection, job, place, [content_id for content_id in unique if content_id not in sizes])
    new = [content_id for content_id in unique if content_id not in met]
    known = [content_id for content_id in new if content_id not in sizes]
    prior = known_outcomes(database, connection, job.spec_id, known)
    lacking = [content_id for content_id in known if content_id not in prior]
    sizes |= n_chars(connection, lacking)
    plan(
        database,
        connection,
        job.id,
        job.spec_id,
        job.lane,
        [(content_id, sizes[content_id]) for content_id in new if content_id not in prior],
    )
    found = Tally.of(prior.values())
    if prior:
        connection.execute(
            update(Job)
            .where(Job.id == job.id)
            .values(
                n_prior_done=Job.n_prior_done + found.done,
                n_prior_failed=Job.n_prior_failed + found.failed,
                n_prior_skipped=Job.n_prior_skipped + found.skipped,
                n_prior_truncated=Job.n_prior_truncated + found.truncated,
            )
        )
    return Planned(len(new) - len(prior), found.done, found.failed, found.skipped)


def _since(place: Place) -> Any:
    """The condition for a document to be current when the job was opened, or later."""
    return or_(Document.superseded_by.is_(None), Document.superseded_by > place.base_document)


def _met(connection: Connection, job: OpenJob, place: Place, content_ids: list[int]) -> set[int]:
    if not content_ids:
        return set()
    # A look-up for each content that stops at the first document: a text may have a million of them. OFFSET 0 keeps
    # PostgreSQL from making one join of it (see `Database.probe`).
    walked = (
        select(Document.id)
        .where(
            Document.content_id == Content.id,
            Document.corpus_id == job.corpus_id,
            or_(Document.id <= place.swept_to, Document.ingest_id == job.ingest_id),
            _since(place),
        )
        .offset(0)
        .correlate(Content)
    )
    query = select(Content.id).where(and_(Content.id.in_(content_ids), walked.exists()))
    return set(connection.scalars(query))
