"""Flower beside a worker that sends Celery's events: what it shows, and what it cannot do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from docmill.worker.queue.messages import ENQUEUE_LANE, RUN_LANE, SHARD_TASK, queue
from docmill.worker.settings import LANES, Settings
from tests.faults.servers import free_port
from tests.test_compose import SERVICES
from tests.worker.harness import ROOT, Docmill, until

pytestmark = pytest.mark.slow

FOLDER = ROOT / "deploy" / "flower"


class Flower:
    """A Flower that runs as compose's service does."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/"

    def read(self, path: str, method: str = "GET") -> bytes:
        with urllib.request.urlopen(urllib.request.Request(self._url + path, method=method), timeout=30) as answer:
            body: bytes = answer.read()
            return body

    def json(self, path: str) -> Any:
        return json.loads(self.read(path))

    def answers(self) -> bool:
        try:
            return bool(self.read("healthcheck"))
        except OSError:
            return False

    def is_told_of(self, worker: str) -> bool:
        return any(worker in name and alive for name, alive in self.json("api/workers?status=1").items())


@contextmanager
def flower(redis_url: str, folder: Path) -> Iterator[Flower]:
    """Start Flower with the command, the variables and the configuration of compose's service."""
    port = free_port()
    program, *arguments = SERVICES["flower"]["command"]
    command = [str(Path(sys.executable).with_name(program)), *(one.replace("5555", str(port)) for one in arguments)]
    assert set(SERVICES["flower"]["environment"]) == {"CELERY_BROKER_URL", "PYTHONPATH"}
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "CELERY_BROKER_URL": redis_url,
        "PYTHONPATH": str(FOLDER),
        "FLOWER_ADDRESS": "127.0.0.1",
        "FLOWER_UNAUTHENTICATED_API": "true",  # so that the test may ask for JSON
    }
    with (folder / "flower.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        found = Flower(port)
        until(found.answers, f"Flower answers: {(folder / 'flower.log').read_text()}")
        yield found
    finally:
        process.kill()
        process.wait()


@pytest.mark.long
def test_flower_shows_workers_shards_and_queues_and_steers_no_worker(
    sqlite_url: str, redis_url: str, tmp_path: Path
) -> None:
    settings = {"DOCMILL_DATABASE_URL": sqlite_url, "DOCMILL_REDIS_URL": redis_url, "DOCMILL_CELERY_EVENTS": "1"}
    docmill = Docmill(tmp_path, settings)
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(f'{{"id": "k{n}", "text": "secret words {n}"}}\n' for n in range(600)))
    with flower(redis_url, tmp_path) as page, docmill.worker("--device", "cpu") as worker:
        until(lambda: page.is_told_of("cpu:"), "Flower knows the worker")
        docmill("enqueue", "embed", corpus, "--model", "null", "--wait")
        n_shards = docmill.json("status", 1)["shards"]["done"]
        until(lambda: len(succeeded(page)) == n_shards > 0, "Flower was told of each shard")
        tasks = page.json("api/tasks")
        assert {task["name"] for task in tasks.values()} == {SHARD_TASK}
        assert "secret" not in json.dumps(tasks)
        lengths = page.json("api/queues/length")["active_queues"]
        assert {one["name"] for one in lengths} == {queue(lane) for lane in (*LANES, RUN_LANE, ENQUEUE_LANE)}

        [name] = page.json("api/workers?status=1")
        assert page.json("api/workers") == {}, "it answers no question of Flower's"
        with pytest.raises(urllib.error.HTTPError):
            page.read(f"api/worker/pool/grow/{name}?n=1", "POST")
        assert worker.poll() is None
    assert "Traceback" not in docmill.log("worker")


def succeeded(page: Flower) -> list[str]:
    """Return the ids of the tasks that Flower knows to have succeeded."""
    return [name for name, task in page.json("api/tasks").items() if task["state"] == "SUCCESS"]


def test_no_worker_sends_events_unless_it_is_told_to() -> None:
    assert Settings.model_fields["celery_events"].default is False
    assert SERVICES["worker"]["environment"]["DOCMILL_CELERY_EVENTS"] is None
    assert SERVICES["flower"]["profiles"] == ["flower"]
