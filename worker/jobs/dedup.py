"""Find the near duplicates of a corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from docmill.worker.jobs import Listener

if TYPE_CHECKING:
    from docmill.storage.core.database import Database
    from docmill.storage.duplicates.clusters import Found
    from docmill.storage.duplicates.methods import Method, Phase, Unit


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


def deduplicate(database: Database, corpus: str, options: DedupOptions, listener: Listener) -> Found:
    """Bring the clusters of a corpus up to date.

    Raises NotFound, NothingEmbedded and StorageError.
    """
    from docmill.storage.core.lookups import find_corpus
    from docmill.storage.duplicates import clusters
    from docmill.storage.duplicates.methods import PHASES

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
    from docmill.storage.duplicates import clusters, vectors
    from docmill.storage.duplicates.methods import ByText, Shingling

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
