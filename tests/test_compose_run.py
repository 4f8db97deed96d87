"""The compose file at work: its services' own commands, health checks, signals and grace, on this machine."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from docmill.storage import migrations
from tests.containers import Host
from tests.faults.servers import open_folder
from tests.worker.harness import EXAMPLES, kill_group, until

VARIABLES = {
    "REDIS_PASSWORD": "letters4and5digits",
    "POSTGRES_PASSWORD": "others6and7more",
    "DOCMILL_LEASE_S": "15",
}


@pytest.fixture
def host() -> Iterator[Host]:
    """A host on which the queue and the database run. Both are killed at the end."""
    with ExitStack() as stack:
        host = Host(stack.enter_context(open_folder()), VARIABLES)
        stack.callback(host.postgres.kill)
        host.start_postgres()
        host.queue = host.start("redis")
        stack.callback(_end, host.queue)
        yield host


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        kill_group(process)


@pytest.mark.long
def test_a_job_goes_through_the_fleet_and_each_service_is_healthy_while_it_works(host: Host) -> None:
    for service in ("redis", "postgres"):
        host.wait_healthy(service)
    migrate = host.start("migrate")
    assert migrate.wait(120) == 0, host.log("migrate")
    assert f"from nothing to {migrations.head()}" in host.log("migrate")
    assert not host.is_healthy("worker")
    with ExitStack() as stack:
        worker = host.start("worker")
        stack.callback(_end, worker)
        host.wait_healthy("worker")

        completed = host.run("cli", "enqueue", "summarize", "descriptions.jsonl", "--limit", "24", "--wait")
        assert completed.returncode == 0, completed.stderr
        summaries = [json.loads(line) for line in host.run("cli", "results", "1").stdout.splitlines()]
        lines = (EXAMPLES / "descriptions.jsonl").read_text().splitlines()[:24]
        assert [row["id"] for row in summaries] == [json.loads(line)["id"] for line in lines]
        assert all(row["text"] for row in summaries)
        for service in ("worker", "cli"):
            assert not [line for line in host.log(service).splitlines() if "ERROR" in line or "Traceback" in line]

        # A worker that hears nothing from the queue is unhealthy until it does.
        host.queue.send_signal(signal.SIGSTOP)
        until(lambda: not host.is_healthy("worker", "--within", "8"), "it is unhealthy", 60)
        assert "has taken nothing from the queue" in host.run("cli", "doctor", "--workers", "--within", "8").stderr
        host.queue.send_signal(signal.SIGCONT)
        until(lambda: host.is_healthy("worker", "--within", "8"), "it is healthy again", 60)
        assert host.stop("worker", worker) == 0, host.log("worker")
    assert not host.is_healthy("worker")
    assert host.stop("redis", host.queue) == 0
