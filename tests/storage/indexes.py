"""Helpers of the tests of vector indexes: a store with pgvector, and a search with and without an index."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from docmill.storage.core.database import Database
from docmill.storage.search import ann, pgvector_index
from docmill.storage.search.ann import Searched
from docmill.storage.search.knn import Matrix
from docmill.storage.search.search import StoredHit, choose, hits, search
from tests.kinds import KINDS


@pytest.fixture
def database(pgvector_url: str) -> Iterator[Database]:
    database = Database(pgvector_url, kinds=KINDS)
    yield database
    database.close()


@pytest.fixture(autouse=True)
def whatever_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """These corpora are so small that no index would be asked."""
    monkeypatch.setattr(ann, "is_worth_it", lambda *_: True)


def index(database: Database, corpus: str = "books") -> Searched:
    searched = choose(database, [corpus])
    pgvector_index.add(database, searched.spec_id)
    return searched


def proposed(database: Database, searched: Searched, query: Matrix, top: int = 5) -> bool:
    return ann.propose(database, searched, query[None], top) is not None


def found(
    database: Database, searched: Searched, query: Matrix, top: int = 5, *, exact: bool = False
) -> list[StoredHit]:
    best = search(database, searched, query[None], top, exact=exact)
    return hits(database, searched, query, best.ids[0].tolist(), best.scores[0].tolist())


def agrees(database: Database, searched: Searched, query: Matrix, top: int = 5) -> list[StoredHit]:
    """The hits of a search by the index, which are those of one without."""
    assert proposed(database, searched, query, top)
    answers = found(database, searched, query, top)
    assert answers == found(database, searched, query, top, exact=True)
    return answers


def rows(database: Database, spec_id: int = 1) -> int:
    with database.read() as transaction:
        return int(
            transaction.exec_driver_sql(f"SELECT count(*) FROM {pgvector_index.name_of(spec_id)}").scalar_one()
        )
