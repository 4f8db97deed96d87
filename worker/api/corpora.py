"""Search and near duplicates of a corpus, for the Python API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import find_corpus, first_existing
from docmill.storage.core.normalize import normalize
from docmill.storage.duplicates.methods import UNITS
from docmill.storage.duplicates.report import summarize
from docmill.storage.readers import Record
from docmill.storage.search.search import Hit as StoredHit
from docmill.worker.api.errors import Error
from docmill.worker.jobs import Listener, dedup, search
from docmill.worker.settings import Settings
from docmill.worker.stores import corpus_names


@dataclass(frozen=True)
class Hit:
    """A document that was found. `score` is the cosine of its vector with the query's.

    `passage` is the part of the text that matched, or None if the text has only one vector and `passages` was False.
    `meta` has the document's other fields.
    """

    id: str
    score: float
    text: str
    passage: str | None
    meta: Mapping[str, Any]


def find_hits(
    settings: Settings, database: Database, corpus: str, text: str, wanted: search.SearchOptions, listener: Listener
) -> list[Hit]:
    """Return the documents of a corpus that are nearest to a text. Raises Error."""
    if not text.strip():
        raise Error("the text of a search is empty")
    query = Record("", normalize(text)[0], {}, (), "the text")
    with search.open_search(settings, database, corpus, wanted, _refuse, listener) as searched:
        [(_, hits)] = searched.answers([query])
    return [_hit(hit) for hit in hits]


def _refuse(where: str, reason: str) -> NoReturn:
    raise Error(f"{where}: {reason}")


def _hit(hit: StoredHit) -> Hit:
    passage = None if hit.passage is None else hit.text[slice(*hit.passage)]
    return Hit(hit.id, hit.score, hit.text, passage, hit.meta)


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


def count_duplicates(database: Database, corpus: str, wanted: dedup.DedupOptions, listener: Listener) -> Duplicates:
    """Find the near duplicates of a corpus. Raises Error."""
    if wanted.threshold is not None and not 0 < wanted.threshold <= 1:
        raise Error(f"threshold is above 0, and at most 1, not {wanted.threshold}")
    if wanted.shingle is not None and (wanted.shingle[0] not in UNITS or wanted.shingle[1] < 1):
        raise Error('shingle is ("words", N) or ("characters", N), with an N of at least 1')
    if wanted.by_vectors and wanted.about_words:
        raise Error(f"{wanted.about_words[0]} is about words, and vectors are compared by their cosine")
    name = first_existing(database, corpus_names(corpus))
    dedup.deduplicate(database, name, wanted, listener)
    summary = summarize(database, find_corpus(database, name), name)
    return Duplicates(**{field: getattr(summary, field) for field in Duplicates.__dataclass_fields__})
