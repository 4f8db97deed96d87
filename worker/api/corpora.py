"""Search in a corpus, for the Python API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from docmill.storage.core.database import Database
from docmill.storage.core.normalize import normalize
from docmill.storage.readers import Record
from docmill.storage.search.search import Hit as StoredHit
from docmill.worker.api.errors import Error
from docmill.worker.jobs import Listener, search
from docmill.worker.settings import Settings


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
