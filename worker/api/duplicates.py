"""The search for near duplicates, for the Python API."""

from __future__ import annotations

from dataclasses import dataclass

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import find_corpus, first_existing
from docmill.storage.duplicates.report import summarize
from docmill.storage.duplicates.shingles import UNITS
from docmill.worker.api.errors import Error
from docmill.worker.jobs.dedup import Wanted, deduplicate
from docmill.worker.jobs.listener import Listener
from docmill.worker.stores import corpus_names


@dataclass(frozen=True)
class Duplicates:
    """The counts of the clusters of a corpus.

    Of its `documents`, `in_clusters` are in one of the `clusters`, and `repeats` are not the first of theirs. With
    `keep_first=True` a task reads `repeated_texts` fewer unique `texts`, and so `repeated_chars` fewer `chars`.
    """

    documents: int
    clusters: int
    in_clusters: int
    repeats: int
    texts: int
    repeated_texts: int
    chars: int
    repeated_chars: int


def dedup(database: Database, corpus: str, wanted: Wanted, listener: Listener) -> Duplicates:
    """Find the near duplicates of a corpus. Raises Error."""
    if wanted.threshold is not None and not 0 < wanted.threshold <= 1:
        raise Error(f"threshold is above 0, and at most 1, not {wanted.threshold}")
    if wanted.shingle is not None and (wanted.shingle[0] not in UNITS or wanted.shingle[1] < 1):
        raise Error('shingle is ("words", N) or ("characters", N), with an N of at least 1')
    if wanted.by_vectors and wanted.about_words:
        raise Error(f"{wanted.about_words[0]} is about words, and vectors are compared by their cosine")
    name = first_existing(database, corpus_names(corpus))
    deduplicate(database, name, wanted, listener)
    found = summarize(database, find_corpus(database, name), name)
    return Duplicates(**{field: getattr(found, field) for field in Duplicates.__dataclass_fields__})
