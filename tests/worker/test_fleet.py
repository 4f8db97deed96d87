"""Jobs with real models on a store and a Redis, by workers that come and go.

Faults with a model that computes nothing are in `tests/faults`.
"""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import OutcomeRow
from tests.faults.checker import check
from tests.worker.harness import EXAMPLES, Docmill, until

DESCRIPTIONS = EXAMPLES / "descriptions.jsonl"
FRENCH = EXAMPLES / "french.jsonl"
TRANSLATE = ("--from", "fr", "--to", "en", "--dtype", "float32", "--beams", 1)
TASKS = (
    ("translate", FRENCH, *TRANSLATE, "--limit", 16),
    ("summarize", DESCRIPTIONS, "--dtype", "float32", "--limit", 16, "--beams", 1),
    ("embed", DESCRIPTIONS, "--dtype", "float32", "--limit", 60),
)


@pytest.fixture(scope="module")
def of_embedded_runs(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """The results of `docmill run` for each of the tasks."""
    embedded = Docmill(tmp_path_factory.mktemp("embedded"), {})
    for task in TASKS:
        embedded("run", *task)
    return [embedded.results(job) for job in (1, 2, 3)]


def test_a_fleet_gives_what_the_embedded_run_gives(
    fleet: Docmill, of_embedded_runs: list[list[dict[str, Any]]]
) -> None:
    with fleet.worker():
        jobs = [fleet.enqueue(*task) for task in TASKS]  # three models at once
        for job in jobs:
            fleet("status", job, "--wait")
    translated, summarised, embedded = zip(of_embedded_runs, map(fleet.results, jobs), strict=True)
    for one, other in (translated, summarised):
        assert len(one) == 16
        assert [result["text"] for result in one] == [result["text"] for result in other]
    vectors, same_vectors = (np.array([result["vector"] for result in results]) for results in embedded)
    assert vectors.shape == (60, 384)
    np.testing.assert_allclose(vectors, same_vectors, atol=1e-5)


def served(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read().decode())


def test_two_jobs_over_overlapping_corpora_both_end_and_store_nothing_twice(
    database: Database, fleet: Docmill
) -> None:
    task = ("translate", FRENCH, "--model", "null@50000")
    few, more = fleet.enqueue(*task, "--limit", 120), fleet.enqueue(*task, "--limit", 200)
    assert few != more
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    fleet.environment |= {"DOCMILL_LOG_FORMAT": "json", "DOCMILL_METRICS_PORT": str(port)}
    with fleet.worker("--threads", "4", "--log-level", "info"):
        fleet("status", few, "--wait")
        fleet("status", more, "--wait")
        texts = fleet.json("status", more)["done"]  # one that both jobs have may be computed for both
        committed = re.compile('docmill_worker_texts_total{device="cpu",kind="translate",status="done"} ([0-9.]+)')
        until(
            lambda: sum(map(float, committed.findall(served(f"http://127.0.0.1:{port}/metrics")))) >= texts,
            "the worker has counted its texts",
        )
        resident = re.compile('docmill_worker_resident_memory_bytes{device="cpu"} ([0-9.e+]+)')
        [held] = map(float, resident.findall(served(f"http://127.0.0.1:{port}/metrics")))
        assert held > 10_000_000
    events = [json.loads(line) for line in fleet.log("worker").splitlines() if line.startswith("{")]
    ended = [event for event in events if event.get("event") == "shard_done"]
    assert {event["job"] for event in ended} == {few, more}
    assert len({event["shard"] for event in ended}) == len(ended)
    assert all(isinstance(event["outcomes"], int) and ":cpu:" in event["worker"] for event in ended)
    assert (len(fleet.results(few)), len(fleet.results(more))) == (120, 200)
    assert check(database, few).texts <= check(database, more).texts
    with database.read() as transaction:
        assert transaction.scalar(select(func.count()).select_from(OutcomeRow)) == fleet.json("status", more)["texts"]
