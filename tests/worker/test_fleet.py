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
def embedded_runs(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """The results of `docmill run` for each of the tasks."""
    embedded = Docmill(tmp_path_factory.mktemp("embedded"), {})
    for task in TASKS:
        embedded("run", *task)
    return [embedded.results(job) for job in (1, 2, 3)]


def test_a_fleet_gives_what_the_embedded_run_gives(fleet: Docmill, embedded_runs: list[list[dict[str, Any]]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # No lease lapses on a slow machine: a text whose shard was given back is not counted by who computed it again.
    fleet.environment |= {"DOCMILL_LOG_FORMAT": "json", "DOCMILL_METRICS_PORT": str(port), "DOCMILL_LEASE_S": "300"}
    with fleet.worker("--log-level", "info"):
        jobs = [fleet.enqueue(*task) for task in TASKS]  # three models at once
        for job in jobs:
            fleet("status", job, "--wait")
        texts = sum(fleet.json("status", job)["done"] for job in jobs)
        until(lambda: committed_texts(port) == texts, "the worker has counted its texts")
    events = [json.loads(line) for line in fleet.log("worker").splitlines() if line.startswith("{")]
    done_events = [event for event in events if event.get("event") == "shard_done"]
    assert {event["job"] for event in done_events} == {*jobs}
    assert sum(event["outcomes"] for event in done_events) == texts
    for source, results in zip((FRENCH, DESCRIPTIONS, DESCRIPTIONS), embedded_runs, strict=True):
        records = [json.loads(line) for line in source.read_text().splitlines()[: len(results)]]
        assert [result["id"] for result in results] == [record["id"] for record in records]
        assert [result["meta"] for result in results] == [
            {name: value for name, value in record.items() if name not in {"id", "text"}} for record in records
        ]
    translated, summarised, embedded = zip(embedded_runs, map(fleet.results, jobs), strict=True)
    for of_run, of_fleet in (translated, summarised):
        assert len(of_run) == 16
        assert [result["text"] for result in of_run] == [result["text"] for result in of_fleet]
    vectors, same_vectors = (np.array([result["vector"] for result in results]) for results in embedded)
    assert vectors.shape == (60, 384)
    np.testing.assert_allclose(vectors, same_vectors, atol=1e-5)


def committed_texts(port: int) -> float:
    """Return the number of texts that a worker has committed, by its metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        counts = re.findall(r"^docmill_worker_texts_total{.*} ([0-9.]+)$", answer.read().decode(), re.MULTILINE)
    return sum(map(float, counts))
