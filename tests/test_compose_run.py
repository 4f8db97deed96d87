"""The compose file at work: its services' own commands, health checks, signals and grace, on this machine."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import text as sql

from docmill.storage import migrations
from docmill.storage.core.database import Database
from tests.containers import Host, interpolated
from tests.faults.servers import Missing, open_folder
from tests.kinds import KINDS
from tests.worker.harness import EXAMPLES, kill_group, until

VARIABLES = {
    "REDIS_PASSWORD": "letters4and5digits",
    "POSTGRES_PASSWORD": "others6and7more",
    "DOCMILL_LEASE_S": "15",
}
N_TEXTS = 2_048  # of which a shard holds 256
PACE = "null@900"  # tokens a second: a job lasts for ten seconds at least


@pytest.fixture
def host() -> Iterator[Host]:
    """The queue and the database run; what else was started is killed in the end."""
    with ExitStack() as stack:
        try:
            found = Host(stack.enter_context(open_folder()), VARIABLES)
        except Missing as missing:
            pytest.skip(str(missing))
        stack.callback(found.postgres.kill)
        found.start_postgres()
        found.queue = found.start("redis")
        stack.callback(end, [found.queue])
        yield found


@pytest.fixture
def workers() -> Iterator[list[subprocess.Popen[bytes]]]:
    """The worker processes that a test starts; they are killed when it ends."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    end(started)


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            kill_group(process)


def test_variables_are_read_as_compose_reads_them() -> None:
    given = {"A": "a", "EMPTY": ""}
    assert interpolated("$$A ${A} ${EMPTY:-${A}b} ${B:-c${A:?no}d}", given) == "$A a ab cad"
    with pytest.raises(KeyError, match="B: set it"):
        interpolated("${EMPTY:-${B:?set it}}", given)


@pytest.mark.long
def test_a_job_goes_through_the_fleet_while_each_worker_is_replaced(
    host: Host, workers: list[subprocess.Popen[bytes]]
) -> None:
    for service in ("redis", "postgres"):
        host.wait_healthy(service)
    migrate = host.start("migrate")
    assert migrate.wait(120) == 0, host.log("migrate")
    assert f"from nothing to {migrations.head()}" in host.log("migrate")
    assert not host.is_healthy("worker")
    workers += [host.start("worker"), host.start("worker")]
    host.wait_healthy("worker")
    until(lambda: n_workers(host) == 2, "both workers are there")

    # Real text through a real model.
    done = host.run("cli", "enqueue", "descriptions.jsonl", "--limit", "24", "--task", "summarize", "--wait")
    assert done.returncode == 0, done.stderr
    summaries = [json.loads(line) for line in host.run("cli", "results", "1").stdout.splitlines()]
    assert [row["id"] for row in summaries] == first_ids(24)
    assert all(row["text"] for row in summaries)

    # The rolling upgrade: one worker after the other, each in the middle of a job of its own.
    jobs = []
    for place, worker in enumerate([*workers]):
        jobs.append(begin_job(host, place))
        assert host.stop("worker", worker) == 0, host.log("worker")
        workers[place] = host.start("worker")
        until(lambda: n_workers(host) == 2, "it has a successor")
    for number, job in enumerate(jobs, 2):
        assert job.wait(240) == 0, host.log("cli")
        found = json.loads(host.run("cli", "status", str(number), "--json").stdout)
        assert (found["state"], found["done"], found["failed"], found["pending"]) == ("done", N_TEXTS, 0, 0)
        ids = [json.loads(line)["id"] for line in host.run("cli", "results", str(number)).stdout.splitlines()]
        assert ids == [f"k{n}" for n in range(N_TEXTS)]
    for service in ("worker", "cli"):
        assert not [line for line in host.log(service).splitlines() if "ERROR" in line or "Traceback" in line]
    assert "error" not in host.log("cli").lower()

    for worker in workers:
        assert host.stop("worker", worker) == 0, host.log("worker")
    assert not host.is_healthy("worker")
    assert host.stop("redis", host.queue) == 0
    host.postgres.interrupt()


def test_a_worker_that_hears_nothing_from_the_queue_is_unhealthy_until_it_does(
    host: Host, workers: list[subprocess.Popen[bytes]]
) -> None:
    assert host.start("migrate").wait(120) == 0
    workers.append(host.start("worker"))
    host.wait_healthy("worker")
    host.queue.send_signal(signal.SIGSTOP)
    until(lambda: not host.is_healthy("worker", "--within", "8"), "it is unhealthy", 60)
    said = host.run("cli", "health", "--within", "8").stderr
    assert "has taken nothing from the queue" in said
    host.queue.send_signal(signal.SIGCONT)
    until(lambda: host.is_healthy("worker", "--within", "8"), "it is healthy again", 60)
    assert host.stop("worker", workers.pop()) == 0


def begin_job(host: Host, number: int) -> subprocess.Popen[bytes]:
    """Return a command that waits for a job of new texts, once the first of them are done."""
    corpus = host.volume("data") / f"numbered{number}.jsonl"
    corpus.write_text(
        "".join(f'{{"id": "k{n}", "text": "{n} is a number of corpus {number}"}}\n' for n in range(N_TEXTS))
    )
    command = host.start("cli", "enqueue", str(corpus), "--task", "embed", "--model", PACE, "--wait")
    query = f"SELECT coalesce(sum(n_done), 0) FROM shard WHERE job_id = {number + 2}"  # the first job is another
    try:
        until(lambda: read(host, query) > 0, "the job has begun")
    except AssertionError:
        kill_group(command)
        raise
    return command


def n_workers(host: Host) -> int:
    """Return the number of live workers that take from the queue."""
    return read(host, "SELECT count(*) FROM worker WHERE consumed_at IS NOT NULL")


def read(host: Host, query: str) -> int:
    """Return a number from the store, without the second that a command takes to start."""
    database = Database(host.environment("worker")["DOCMILL_DATABASE_URL"], kinds=KINDS)
    try:
        with database.read() as transaction:
            return int(transaction.scalar(sql(query)) or 0)
    finally:
        database.close()


def first_ids(n: int) -> list[str]:
    lines = (EXAMPLES / "descriptions.jsonl").read_text().splitlines()
    return [json.loads(line)["id"] for line in lines[:n]]
