"""The page of search: documents by their id, and those of a corpus that are nearest to a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from docmill.storage.core.normalize import normalize
from docmill.storage.errors import NotFound, NothingEmbedded
from docmill.storage.readers import Record
from docmill.storage.results.corpora import find_documents
from docmill.storage.search.search import StoredHit, list_searchable
from docmill.tasks.errors import TaskError
from docmill.worker.errors import WorkerError
from docmill.worker.jobs import Listener
from docmill.worker.jobs.search import SearchOptions, open_search
from docmill.worker.web.marks import TextPart, excerpt
from docmill.worker.web.page import Page, PageRefused, PageRequest, Values
from docmill.worker.web.pages.jobs import last_part

TOP = 10
MOST_CHARS = 2_000  # of a text, or of an id
SHOWN_CHARS = 400  # of a hit


@dataclass(frozen=True)
class SearchResult:
    """The hits of a search, the nearest first, and the job whose vectors were compared."""

    job_id: int
    step: str
    hits: Sequence[StoredHit]

    def text_of(self, hit: StoredHit) -> list[TextPart]:
        """Return a part of the hit's text, with a mark on the passage that matched."""
        start, end = hit.passage or (0, 0)
        is_part = end - start < len(hit.text)
        parts = [(hit.text[:start], False), (hit.text[start:end], is_part), (hit.text[end:], False)]
        return excerpt([TextPart(text, is_marked) for text, is_marked in parts if text], SHOWN_CHARS)


def read(request: PageRequest) -> Values:
    """Return the corpora, the hits if a text was given, and the documents with an id if it was given."""
    corpora = list_searchable(request.database)
    corpus, text = request.query.get("corpus", ""), request.query.get("text", "").strip()
    if len(text) > MOST_CHARS:
        raise PageRefused(f"The text has {len(text):,} characters; a search takes at most {MOST_CHARS:,}.")
    key = request.query.get("id", "").strip()
    if len(key) > MOST_CHARS:
        raise PageRefused(f"The id has {len(key):,} characters; the page looks up at most {MOST_CHARS:,}.")
    values: dict[str, object] = {"corpora": corpora, "corpus": corpus, "text": text, "found": None, "problem": None}
    values |= {"last_part": last_part, "key": key, "documents": find_documents(request.database, key) if key else []}
    if text and corpora and request.from_another_site:
        values["problem"] = "This search is a link of another site. Press Search to load the model and to search."
    elif text and corpora:
        try:
            values["found"] = search(request, corpus or corpora[0], text)
        except (NotFound, NothingEmbedded, TaskError, WorkerError) as error:
            values["problem"] = str(error)
    return values


def search(request: PageRequest, corpus: str, text: str) -> SearchResult:
    """Return the documents of a corpus that are nearest to a text.

    Raises NotFound, NothingEmbedded, TaskError and WorkerError.
    """
    query = Record("", normalize(text)[0], {}, (), "The text")
    options = SearchOptions(top=TOP)
    with open_search(request.settings, request.database, corpus, options, _refuse, Listener()) as opened:
        [(_, hits)] = opened.answers([query])
    return SearchResult(opened.searched.job_id, opened.searched.way[-1].name, hits)


def _refuse(where: str, reason: str) -> NoReturn:
    raise WorkerError(f"{where} was not embedded: {reason}")


PAGES = (Page("/search", "search.html.j2", read, name="Search"),)
