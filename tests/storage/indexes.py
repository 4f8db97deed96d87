"""A store with pgvector, and searches with and without an index."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import text

from docmill.storage.core.database import Database
from docmill.storage.search import ann, pgvector_index
from docmill.storage.search.ann import Searched
from docmill.storage.search.knn import Matrix
from docmill.storage.search.search import StoredHit, choose, hits, search
from tests.kinds import KINDS
from tests.storage.builders import count_rows


@pytest.fixture
def database(pgvector_url: str) -> Iterator[Database]:
    """An open database on a PostgreSQL that has pgvector."""
    with closing(Database(pgvector_url, kinds=KINDS)) as database:
        yield database


@pytest.fixture(autouse=True)
def whatever_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the index although the tests' corpora are so small that comparing all vectors costs less."""
    monkeypatch.setattr(ann, "is_worth_it", lambda *_: True)


def make_index(database: Database, corpus: str = "books") -> Searched:
    """Make or complete the index of a corpus's vectors. Return what a search of the corpus needs."""
    searched = choose(database, [corpus])
    pgvector_index.add(database, searched.spec_id)
    return searched


def uses_index(database: Database, searched: Searched, query: Matrix, top: int = 5) -> bool:
    """Return True if the index answers a query."""
    return ann.propose(database, searched, query[None], top) is not None


def search_hits(
    database: Database, searched: Searched, query: Matrix, top: int = 5, *, exact: bool = False
) -> list[StoredHit]:
    """Return the hits of a query, the best first."""
    best = search(database, searched, query[None], top, exact=exact)
    return hits(database, searched, query, best.ids[0].tolist(), best.scores[0].tolist())


def search_both_ways(database: Database, searched: Searched, query: Matrix, top: int = 5) -> list[StoredHit]:
    """Return the hits of a search by the index. A search without the index has to find the same hits."""
    assert uses_index(database, searched, query, top)
    answers = search_hits(database, searched, query, top)
    assert answers == search_hits(database, searched, query, top, exact=True)
    return answers


def count_indexed(database: Database, spec_id: int = 1) -> int:
    """Count the vectors in the index of a spec."""
    return count_rows(database, text(pgvector_index.name_of(spec_id)))
