"""Find the contents that a job still has to plan, each once, without a table of planned contents.

A job walks its own documents as it adds them. Once its source is read, it walks the documents that other readings
brought into the corpus, in the order of their ids, up to `swept_to`: those that were current when that sweep began,
and later ones. So a content is planned, or counted as prior, if and only if a walked document has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from sqlalchemy import and_, func, or_, select, update

from docmill.storage.core.lookups import is_current_document, unseen
from docmill.storage.core.schema import AnyRow, Content, Document, Job
from docmill.storage.core.transaction import Transaction
from docmill.storage.steps.jobs import OpenJob
from docmill.storage.steps.propagation import Traversal, has_prompts

SWEEP_DOCUMENTS = 5_000  # planned in one transaction
NEAR_DOCUMENTS = 50_000  # examined in one transaction


# The position of a job in its corpus: its `base_document` and `swept_to` (see `storage.core.schema.Job`).
CorpusPosition: TypeAlias = AnyRow


def sweep_page(transaction: Transaction, job: OpenJob, position: CorpusPosition) -> tuple[int, bool]:
    """Plan the next documents that other readings brought into the corpus.

    Return the number of texts that were put into shards, and True if there may be more documents.
    """
    lock_walk(transaction, job)
    if position.swept_to == 0:
        base = transaction.scalar(select(func.max(Document.id)).where(Document.corpus_id == job.corpus_id)) or 0
        began = update(Job).where(Job.id == job.id).values(base_document=base)
        position = transaction.execute(began.returning(Job.base_document, Job.swept_to)).one()
    transaction.prefer_index_order()
    # Documents of the job's own source, usually all, are filtered by the database: fetching them took a third of
    # the time to read a million documents.
    near = select(Document.id).where(Document.corpus_id == job.corpus_id, Document.id > position.swept_to)
    end = transaction.scalar(near.order_by(Document.id).offset(NEAR_DOCUMENTS - 1).limit(1))
    others = select(Document.id, Document.content_id).where(
        Document.corpus_id == job.corpus_id,
        Document.id > position.swept_to,
        Document.ingest_id != job.ingest_id,
        _since(position),
        ~Document.gone,
    )
    if end is not None:
        others = others.where(Document.id <= end)
    page = transaction.execute(others.order_by(Document.id).limit(SWEEP_DOCUMENTS)).all()
    planned = plan_new(transaction, job, position, [document.content_id for document in page])
    own = {document.id: document.content_id for document in page}
    planned += Traversal(transaction, job.id, job.steps).plan_prompts(own)
    full = len(page) == SWEEP_DOCUMENTS
    last = end if end is not None and not full else page[-1].id if page else None
    if last is not None:
        transaction.execute(update(Job).where(Job.id == job.id).values(swept_to=last))
    return planned, full or end is not None


def leaves_out(job: OpenJob) -> bool:
    """Return True if a step of the job leaves out some documents."""
    return any(step.leaves_out is not None for step in job.steps)


def plan_filtered(transaction: Transaction, job: OpenJob, after: int) -> tuple[int, int]:
    """Plan the next documents of the corpus, behind the id `after`, at the steps that leave some out.

    Return the number of texts that were put into shards, and the last id, which is `after` if no document is left.
    """
    lock_walk(transaction, job)
    transaction.prefer_index_order()
    query = select(Document.id, Document.content_id).where(Document.corpus_id == job.corpus_id, Document.id > after)
    page = transaction.execute(query.where(is_current_document()).order_by(Document.id).limit(SWEEP_DOCUMENTS)).all()
    if not page:
        return 0, after
    own = {document.id: document.content_id for document in page}
    return Traversal(transaction, job.id, job.steps).plan_filtered(own), page[-1].id


def lock_walk(transaction: Transaction, job: OpenJob) -> None:
    """Lock out `Traversal.follow` while this transaction walks documents. Call it before reading documents."""
    if has_prompts(job.steps):
        transaction.keep_contents()  # first, in the same order as `propagation`
        transaction.stop_following(job.id)


def plan_new(
    transaction: Transaction,
    job: OpenJob,
    position: CorpusPosition,
    content_ids: Sequence[int],
    fresh: Mapping[int, int] = MappingProxyType({}),
) -> int:
    """Plan the contents that the job has not met. Return the number of contents that were put into shards.

    Call it before the documents are walked. Prompts of these documents are planned once the documents are stored
    (`Traversal.plan_prompts`). `fresh` gives the characters of contents that no job can have met.
    """
    unique = list(dict.fromkeys(content_ids))
    met = _find_met(transaction, job, position, [content_id for content_id in unique if content_id not in fresh])
    new = [content_id for content_id in unique if content_id not in met]
    total, traversal = 0, Traversal(transaction, job.id, job.steps)
    for step in job.steps:
        if step.input_step is None and step.template is None and step.leaves_out is None:
            total += traversal.take_in(step, new, fresh)
    return total


def _since(position: CorpusPosition) -> Any:
    """Return the condition for a document that was current when the sweep began, or came later."""
    return or_(Document.superseded_by.is_(None), Document.superseded_by > position.base_document)


def _find_met(transaction: Transaction, job: OpenJob, position: CorpusPosition, content_ids: list[int]) -> set[int]:
    # One look-up for each content, which stops at the first document: a text may have a million. OFFSET 0 keeps
    # PostgreSQL from turning it into a join (see `Transaction.probe`).
    walked = (
        select(Document.id)
        .where(
            Document.content_id == Content.id,
            Document.corpus_id == unseen(job.corpus_id),
            ~Document.gone,
            or_(Document.ingest_id == job.ingest_id, and_(Document.id <= position.swept_to, _since(position))),
        )
        .offset(0)
        .correlate(Content)
    )
    query = select(Content.id).where(walked.exists())
    return {row.id for row in transaction.probe(query, Content.id, content_ids)}
