"""`docmill db recount`: what it corrects and says."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from tests.worker.harness import Docmill


def test_counts_that_are_wrong_are_corrected_and_said(embedded: Docmill, write_corpus: Callable[..., Path]) -> None:
    write_corpus([{"id": f"{n}", "text": f"text {n}"} for n in range(3)])
    embedded("run", "corpus.jsonl", "--task", "embed", "--model", "null")
    assert "are right." in embedded("db", "recount").stderr
    with sqlite3.connect(embedded.folder / "home" / "docmill.db") as store:
        [(jobs,)] = store.execute("SELECT count(*) FROM shard_count WHERE n > 0").fetchall()
        store.execute("UPDATE shard_count SET n = 2 * n")
        store.execute("INSERT INTO work_count (name, lane, label, n) VALUES ('flags', 'embed', 'empty', 2)")
        store.execute("INSERT INTO work_count (name, lane, label, n) VALUES ('failures', 'embed', 'document', 1)")
    said = embedded("db", "recount").stderr
    assert f"{jobs} count{'s' * (jobs != 1)} of shards, 2 of failures and flags" in said
    assert embedded.json("db", "recount") == {"corrected": {"shards": 0, "outcomes": 0}}
