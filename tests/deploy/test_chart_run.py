"""The chart at work on this machine: a rolling restart and a scale-down to zero in the middle of a job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import text as sql
from sqlalchemy.engine import make_url

from docmill.storage.core.database import Database
from tests.deploy.chart import render
from tests.deploy.cluster import Cluster, Pod
from tests.deploy.test_chart import needs_helm
from tests.kinds import KINDS
from tests.worker.harness import until

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), needs_helm]

WORKER, UPKEEP = "docmill-worker-cpu", "docmill-upkeep"
N_TEXTS = 2_048  # of which a shard holds 256
PACE = "null@800"  # tokens a second: a job lasts for ten seconds at least


@pytest.fixture
def cluster(postgres_url: str, redis_url: str, tmp_path: Path) -> Iterator[Cluster]:
    """The chart's pods with a database and a queue of their own; what still runs is killed in the end."""
    plain = make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    [rendered] = render(
        {
            "connection": {"databaseUrl": plain, "redisUrl": redis_url},
            "workers": {"cpu": {"autoscaling": {"enabled": True}}},
            "workerMetrics": {"enabled": False},  # two pods have no port for both on one machine
        }
    )
    with ExitStack() as stack:
        found = Cluster(rendered, tmp_path)
        stack.callback(found.kill)
        yield found


class Store:
    """The store as the test looks at it, beside the pods."""

    def __init__(self, url: str) -> None:
        self._database = Database(url, kinds=KINDS)
        self.close = self._database.close

    def number(self, query: str) -> int:
        with self._database.read() as transaction:
            return int(transaction.scalar(sql(query)) or 0)

    def workers(self) -> int:
        """Return the number of live device processes that have taken from the queue."""
        return self.number("SELECT count(*) FROM worker WHERE consumed_at IS NOT NULL")

    def done(self) -> int:
        return self.number("SELECT count(*) FROM outcome WHERE status = 'done'")


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    found = Store(postgres_url)
    yield found
    found.close()


def test_a_rolling_restart_and_a_scale_down_to_zero_in_the_middle_of_a_job_lose_nothing(
    cluster: Cluster, store: Store, tmp_path: Path
) -> None:
    migration = cluster.start("Job", "docmill-migrate")
    assert migration.process is not None
    assert migration.process.wait(120) == 0, migration.log
    upkeep, *workers = [cluster.start("Deployment", name) for name in (UPKEEP, WORKER, WORKER)]
    until(lambda: store.workers() == 3, "all workers take from the queue")
    assert workers[0].probe("startupProbe") == 0

    for place, worker in enumerate([*workers]):
        enqueue_and_see_it_begin(upkeep, store, tmp_path, place)
        worker.terminate()
        assert worker.wait() == 0, worker.log
        workers[place] = cluster.start("Deployment", WORKER)
        until(lambda: store.workers() == 3, "it has a successor")

    enqueue_and_see_it_begin(upkeep, store, tmp_path, 2)
    for worker in workers:
        worker.terminate()
    assert [worker.wait() for worker in workers] == [0, 0], workers[0].log
    assert is_open(cluster, store), "KEDA would not bring a worker back"
    assert store.number("SELECT count(*) FROM shard WHERE state = 'running'") == 0, "given back, not left to a lease"

    workers = [cluster.start("Deployment", WORKER)]
    until(lambda: store.number("SELECT count(*) FROM job WHERE state = 'done'") == 3, "the jobs are done", 120)
    assert not is_open(cluster, store)
    rows = [json.loads(line) for line in upkeep.run("results", "3").stdout.splitlines()]
    assert [row["id"] for row in rows] == [f"k{n}" for n in range(N_TEXTS)]
    assert store.done() == 3 * N_TEXTS
    assert store.number("SELECT sum(n_done) FROM shard") == 3 * N_TEXTS, "a text was committed twice"
    for pod in cluster.pods:
        assert not [line for line in pod.log.splitlines() if '"level":"error"' in line or "Traceback" in line]
    assert_the_end(upkeep, workers[0])


def enqueue_and_see_it_begin(upkeep: Pod, store: Store, folder: Path, number: int) -> None:
    """Enqueue a corpus of new texts, and return in the middle of its job."""
    corpus = folder / f"corpus{number}.jsonl"
    corpus.write_text(
        "".join(f'{{"id": "k{n}", "text": "{n} is a number of corpus {number}"}}\n' for n in range(N_TEXTS))
    )
    enqueued = upkeep.run("enqueue", "embed", str(corpus), "--model", PACE)
    assert enqueued.returncode == 0, enqueued.stderr
    job = number + 1
    until(lambda: store.number(f"SELECT sum(n_done) FROM shard WHERE job_id = {job}") > 0, "the job has begun")
    assert store.number(f"SELECT count(*) FROM shard WHERE job_id = {job} AND state <> 'done'"), "it is over"


def assert_the_end(upkeep: Pod, worker: Pod) -> None:
    """The last pods end in time. Then liveness fails, but not for a database that does not answer."""
    for pod in (worker, upkeep):
        pod.terminate()
    assert [worker.wait(), upkeep.wait()] == [0, 0]
    assert worker.probe("livenessProbe") == 1
    assert worker.probe("livenessProbe", DOCMILL_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none") == 0


def is_open(cluster: Cluster, store: Store) -> bool:
    """Return True if the chart's query finds work."""
    [trigger] = cluster.rendered.named("ScaledObject", WORKER)["spec"]["triggers"]
    return store.number(trigger["metadata"]["query"]) > 0
