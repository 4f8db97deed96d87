"""Find the near duplicates of a corpus, and leave them out of steps: the filter `near-duplicates`."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sqlalchemy import select

from docmill.features.near_duplicates import clusters, vectors
from docmill.features.near_duplicates.clusters import SearchWork
from docmill.features.near_duplicates.methods import PHASES, ByText, Method, Phase, Shingling, Unit, require_library
from docmill.features.near_duplicates.tables import Duplicate, is_repeat
from docmill.storage.core.database import Database
from docmill.storage.core.lookups import find_corpus
from docmill.storage.core.schema import Document
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import NothingEmbedded
from docmill.storage.steps.conditions import DocumentFilter, Hear
from docmill.worker.jobs import Listener

log = logging.getLogger("docmill.near_duplicates")


@dataclass(frozen=True)
class DedupOptions:
    """The options of a search; None is the default. `job` is the number of an embed job."""

    threshold: float | None = None
    shingle: tuple[Unit, int] | None = None
    seed: int | None = None
    embeddings: bool = False
    job: int | None = None

    @property
    def by_vectors(self) -> bool:
        return self.embeddings or self.job is not None

    @property
    def about_words(self) -> list[str]:
        """The names of the given options that have no meaning for vectors."""
        return [name for name in ("shingle", "seed") if getattr(self, name) is not None]


def deduplicate(database: Database, corpus: str, options: DedupOptions, listener: Listener) -> SearchWork:
    """Bring the clusters of a corpus up to date.

    Raises NotFound, NothingEmbedded and StorageError.
    """
    corpus_id = find_corpus(database, corpus)
    method = _method(database, corpus, corpus_id, options, listener)
    with listener.bar("dedup", total=1) as progress:

        def advanced(phase: Phase, done: int, total: int) -> None:
            progress.update(done, total=max(1, total), remark=PHASES[phase])

        sums = clusters.find(database, corpus_id, method, advanced)
        progress.update(sums.documents, total=sums.documents, remark="documents")
    return sums


def _method(database: Database, corpus: str, corpus_id: int, options: DedupOptions, listener: Listener) -> Method:
    """Return the method that is asked for, or else that of the last search."""
    if options.by_vectors:
        return vectors.method_for(database, corpus, options.job, options.threshold)
    last = clusters.method_of(database, corpus_id)
    if last is not None and options == DedupOptions():
        listener.say(f"As in the last search: {last}.")
        return last
    default = ByText()
    return ByText(
        default.threshold if options.threshold is None else options.threshold,
        default.shingling if options.shingle is None else Shingling(*options.shingle),
        default.seed if options.seed is None else options.seed,
    )


def _update(database: Database, corpus_id: int, hear: Hear) -> str | None:
    """Find near duplicates in the corpus, by the method of the last search or by the default one."""

    def advanced(phase: Phase, done: int, total: int) -> None:
        hear(f"near duplicates: {PHASES[phase]} {100 * done // max(1, total)} %")

    method = clusters.method_of(database, corpus_id) or ByText()
    try:
        n = clusters.find(database, corpus_id, method, advanced).repeats
    except NothingEmbedded as error:  # the clusters stay as they were
        log.warning("not_searched corpus=%d reason=%r", corpus_id, str(error))
        return None
    if n == 1:
        return "1 document is a near duplicate of an earlier one; --leave-out leaves it out."
    return f"{n:,} documents are near duplicates of earlier ones; --leave-out leaves them out."


def _explain(transaction: Transaction, document_id: int) -> str | None:
    first = Document.__table__.alias("first")
    query = select(first.c.key).join(Duplicate.__table__, Duplicate.first_id == first.c.id)
    key = transaction.scalar(query.where(Duplicate.document_id == document_id, first.c.id != document_id))
    return None if key is None else f"a near duplicate of the earlier document {key}"


FILTER = DocumentFilter(
    reason="a near duplicate of an earlier document",
    leaves_out=is_repeat,
    update=_update,
    explain=_explain,
    require=require_library,
)
