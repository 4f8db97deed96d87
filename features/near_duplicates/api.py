"""Near duplicates for the Python API."""

from __future__ import annotations

from docmill.features.near_duplicates.clusters import DedupOptions, deduplicate
from docmill.features.near_duplicates.methods import UNITS, Unit
from docmill.features.near_duplicates.report import DuplicateCounts, summarize
from docmill.worker.api.errors import Error, explained
from docmill.worker.api.job import listen
from docmill.worker.api.mill import Mill
from docmill.worker.stores import find_named_corpus


@explained
def dedup(
    mill: Mill,
    corpus: str,
    *,
    threshold: float | None = None,
    shingle: tuple[Unit, int] | None = None,
    seed: int | None = None,
    embeddings: bool = False,
    job: int | None = None,
    progress: bool = False,
) -> DuplicateCounts:
    """Find the near duplicates of a corpus, and return the counts of its clusters.

    The corpus is named as in `run`, or by the path of its source. `shingle` is ("words", 3) or ("characters", 5).
    The options are those of `docmill dedup`. With `leave_out="near-duplicates"`, `run` and `enqueue` read only the
    first document of each cluster. Raises Error.
    """
    options = DedupOptions(threshold, shingle, seed, embeddings, job)
    if threshold is not None and not 0 < threshold <= 1:
        raise Error(f"threshold must be above 0 and at most 1, not {threshold}")
    if shingle is not None and (shingle[0] not in UNITS or shingle[1] < 1):
        raise Error('shingle must be ("words", N) or ("characters", N), with N at least 1')
    corpus_id, name = find_named_corpus(mill.database, corpus)
    deduplicate(mill.database, corpus_id, name, options, listen(progress))
    return summarize(mill.database, corpus_id, name)
