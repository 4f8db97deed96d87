"""`docmill index`, on a PostgreSQL with pgvector and without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worker.harness import Docmill

Write = Callable[..., Path]


@pytest.fixture
def indexing(tmp_path: Path, pgvector_url: str) -> Docmill:
    """A docmill on a PostgreSQL with pgvector, with an embedded queue."""
    return Docmill(tmp_path, {"DOCMILL_DATABASE_URL": pgvector_url})


def test_an_index_is_made_listed_used_and_dropped(indexing: Docmill, write_corpus: Write, tmp_path: Path) -> None:
    write_corpus([{"id": f"k{i}", "text": f"text {i}"} for i in range(40)])
    indexing("run", "embed", "corpus.jsonl", "--model", "null", "--corpus", "books")
    assert "40 texts were added" in indexing("index", "add", "books").stderr
    assert indexing.json("index", "add", "books", "--job", 1) == {"spec": 1, "added": 0}
    [listed] = indexing.json("index", "list")
    assert (listed["spec_id"], listed["vectors"], listed["lacking"], listed["ready"]) == (1, 40, 0, True)
    assert "ready" in indexing("index", "list").stdout
    for more in ((), ("--exact",)):
        assert indexing.json("search", "books", "text 7", *more)["hits"][0]["id"] == "k7"
    assert "is up to date" in indexing("db", "upgrade").stderr
    letter = tmp_path / "letter.txt"
    letter.write_text("text 7")
    assert indexing.json("corpus", "trace", letter, code=1)["indexed"] == 1
    assert "1 vectors of it are in an index" in indexing("corpus", "trace", letter, code=1).stdout
    indexing("corpus", "rm", "books", "--yes")
    assert "nowhere" in indexing("corpus", "trace", letter).stdout
    assert "Dropped the index of spec 1" in indexing("index", "rm", "embed/null").stderr
    assert "There is no index of 1" in indexing("index", "rm", 1, code=2).stderr
