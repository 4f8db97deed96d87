"""Searching by a walk or by an index: what the bar shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest

from docmill.storage.core.database import Database
from docmill.storage.search import ann
from docmill.storage.search.search import choose
from docmill.tasks.outputs import Vector
from docmill.worker.jobs import Bar, Listener
from docmill.worker.jobs.search import Search, SearchOptions, query_record
from tests.storage.builders import numbered
from tests.storage.search.test_search import embed, vector_of


class LastProgress(Listener, Bar):
    """Keeps the last progress of a bar."""

    @contextmanager
    def bar(self, name: str, total: float | None = None) -> Iterator[Bar]:
        yield self

    def update(self, completed: float, *, total: float | None = None, **_: str) -> None:
        self.last = (completed, total)


@pytest.mark.parametrize("candidates", [None, {1: 1}])
def test_the_bar_is_full_at_the_end(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch, candidates: dict[int, int] | None
) -> None:
    embed(sqlite, numbered(5))
    monkeypatch.setattr(ann, "propose", lambda *_: candidates)
    searched, progress = choose(sqlite, ["books"]), LastProgress()
    options = SearchOptions(passages=False)
    search = Search(
        sqlite, searched, searched.spec, lambda *_: [Vector(vector_of("q"))], options, print, progress, nullcontext
    )
    assert len(list(search.answers([query_record("q", "1")]))) == 1
    completed, total = progress.last
    assert completed == total
