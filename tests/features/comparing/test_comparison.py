"""The comparison of two jobs over a store."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from docmill.features.comparing.command import comparison_as_json, print_comparison
from docmill.features.comparing.comparison import JobComparison, compare, read_side
from docmill.storage.core.database import Database
from docmill.storage.core.specs import Spec
from docmill.storage.deletion import gc, removal
from tests.storage.builders import COPY, EMBED, done, embedded, finish, numbered, read, request


def compare_jobs(database: Database, spec: Spec) -> JobComparison:
    """Return the comparison of two jobs over two documents, with both as samples."""
    outcomes: Any = [embedded, embedded] if spec is EMBED else [partial(done, text=text) for text in ("a", "b")]
    sides = []
    for revision, outcome in zip(("1", "2"), outcomes, strict=True):
        job = read(database, request(spec=replace(spec, revision=revision)), numbered(2))
        finish(database, outcome)
        sides.append(read_side(database, job.corpus_id, job.id, None))
    return compare(database, job.corpus_id, *sides, samples=2, seed=0, advanced=lambda _: None)


@pytest.mark.parametrize("spec", [COPY, EMBED], ids=["texts", "vectors"])
def test_documents_that_are_removed_while_jobs_are_compared_lack_their_texts_and_ids(
    sqlite: Database, spec: Spec, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = compare_jobs(sqlite, spec)
    comparison.neighborhoods = [replace(near, b=()) for near in comparison.neighborhoods]
    before = comparison_as_json(comparison, sqlite)["samples"]
    removal.remove_documents(sqlite, "books", ["k1"])
    gc.collect(sqlite)
    after = comparison_as_json(comparison, sqlite)["samples"]
    print_comparison(comparison, sqlite)
    if spec is COPY:
        assert {sample["text"] for sample in before} == {"text 0", "text 1"}
        assert {sample["text"] for sample in after} == {"text 0", ""}
    else:
        assert [(sample["id"], sample["a"]) for sample in before] == [("k0", ["k1"]), ("k1", ["k0"])]
        assert [(sample["id"], sample["a"]) for sample in after] == [("k0", ["(removed)"]), ("(removed)", ["k0"])]
        assert "(removed)" in capsys.readouterr().out
