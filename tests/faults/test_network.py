"""Workers behind a network that delays, reorders and drops packets, and is gone for seconds at a time."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from docmill.storage.core.database import Database
from docmill.storage.results.results import results
from tests.faults.campaign import seed_of_this_run
from tests.faults.fleet import SHARD_TEXTS, Fleet, numbered
from tests.faults.network import BadNetwork
from tests.faults.proxy import Proxy
from tests.faults.servers import Missing, RedisServer
from tests.worker.harness import kill_group, until

PAUSE_S = 1.0
CALM_S = 300.0


@pytest.fixture
def network() -> Iterator[BadNetwork]:
    seed = seed_of_this_run()
    print(f"DOCMILL_TEST_SEED={seed}")
    try:
        made = BadNetwork(seed)
        made.__enter__()
    except Missing as reason:
        pytest.skip(str(reason))
    yield made
    made.__exit__()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "seconds", [pytest.param(60, marks=pytest.mark.long), pytest.param(1800, marks=pytest.mark.soak)]
)
def test_nothing_is_lost_over_a_network_that_drops_packets(
    tmp_path: Path, restartable: Database, own_redis: RedisServer, network: BadNetwork, seconds: int
) -> None:
    chance = random.Random(seed_of_this_run())
    fleet = Fleet(tmp_path, restartable, own_redis.url, lease_s=10)
    jobs = dict[int, list[str]]()
    with ExitStack() as stack:
        url = make_url(fleet.environment["DOCMILL_DATABASE_URL"])
        assert url.port is not None
        database, queue = (stack.enter_context(Proxy(port, network.host)).port for port in (url.port, own_redis.port))
        far = url.set(host=network.host, port=database).render_as_string(hide_password=False)
        fleet.environment |= {"DOCMILL_DATABASE_URL": far, "DOCMILL_REDIS_URL": f"redis://{network.host}:{queue}/0"}
        fleet.environment["DOCMILL_DATABASE_ANSWER_S"] = "2"
        workers = []
        for n in range(2):
            log = stack.enter_context((tmp_path / f"worker-{n}.log").open("wb"))
            workers.append(fleet.launch(("worker",), log, log, network.within))
            stack.callback(kill_group, workers[-1])
        until(lambda: len(fleet.live()) == 2, "both workers are ready")
        over = time.monotonic() + seconds
        while time.monotonic() < over:
            texts = numbered(chance.randrange(1, 9) * SHARD_TEXTS, first=10**6 * len(jobs))
            jobs[fleet.give(texts, model="null@1000")] = texts
            network.cut(chance.random() ** 2 * 12.0)
            until(lambda: len(open_jobs(fleet, jobs)) < 3, "jobs end", CALM_S)
            time.sleep(chance.random() * PAUSE_S)
        for job, texts in jobs.items():
            assert fleet.finish(job, CALM_S).failed == 0
            assert {row["text"] for row in results(fleet.database, job)} == {*texts}
        assert [worker.poll() for worker in workers] == [None, None]
    print(f"{len(jobs)} jobs, {network.carried} packets carried, {network.dropped} dropped")
    assert network.dropped
    logs = "\n".join((tmp_path / f"worker-{n}.log").read_text(errors="replace") for n in range(2))
    assert "Traceback" not in logs


def open_jobs(fleet: Fleet, jobs: dict[int, list[str]]) -> list[int]:
    return [job for job in jobs if fleet.state(job) in {"ingesting", "running"}]
