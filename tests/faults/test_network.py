"""Workers behind a network that delays, reorders and drops packets, and is gone for seconds at a time."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from docmill.storage.results.results import results
from tests.faults.campaign import seed_of_this_run
from tests.faults.fleet import SHARD_TEXTS, Fleet, numbered
from tests.faults.network import BadNetwork
from tests.faults.proxy import Proxy
from tests.faults.servers import HOST, PostgresCluster, RedisServer, open_folder
from tests.kinds import new_store
from tests.worker.harness import kill_group, until

PAUSE_S = 1.0
CALM_S = 300.0
FOR_EVER_S = 3600.0


@pytest.fixture
def network() -> Iterator[BadNetwork]:
    seed = seed_of_this_run()
    print(f"DOCMILL_TEST_SEED={seed}")
    with BadNetwork(seed) as network:
        yield network


@pytest.fixture
def far_postgres(network: BadNetwork) -> Iterator[PostgresCluster]:
    """A PostgreSQL that clients reach over the network, without a proxy that answers for a client that is gone."""
    with open_folder() as folder:
        server = PostgresCluster(folder / "cluster", options=(f"listen_addresses={HOST},{network.host}",))
        server.trust(network.host)
        with server:
            yield server


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "seconds", [pytest.param(60, marks=pytest.mark.long), pytest.param(1800, marks=pytest.mark.soak)]
)
def test_nothing_is_lost_over_a_network_that_drops_packets(
    tmp_path: Path,
    far_postgres: PostgresCluster,
    own_redis: RedisServer,
    network: BadNetwork,
    seconds: int,
) -> None:
    chance = random.Random(seed_of_this_run())
    jobs = dict[int, list[str]]()
    with ExitStack() as stack:
        fleet = stack.enter_context(far_fleet(tmp_path, far_postgres, own_redis, network))
        workers = []
        for n in range(2):
            log = stack.enter_context((tmp_path / f"worker-{n}.log").open("wb"))
            workers.append(fleet.launch(("worker",), log, log, network.prefix))
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


@pytest.mark.long
def test_the_server_ends_the_session_of_a_client_that_the_network_took_away(
    tmp_path: Path, far_postgres: PostgresCluster, own_redis: RedisServer, network: BadNetwork
) -> None:
    """A server's own default would be two hours."""

    def sessions() -> int:
        with psycopg.connect(far_postgres.admin_url) as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE client_addr = %s"
            [(n,)] = connection.execute(query, [network.there]).fetchall()
        return int(n)

    with far_fleet(tmp_path, far_postgres, own_redis, network) as fleet, (tmp_path / "worker.log").open("wb") as log:
        worker = fleet.launch(("worker",), log, log, network.prefix)
        try:
            until(lambda: len(fleet.live()) == 1 and sessions() > 0, "it is ready")
            network.cut(FOR_EVER_S)
        finally:
            kill_group(worker)
        until(lambda: sessions() == 0, "the server has noticed")


@contextmanager
def far_fleet(folder: Path, server: PostgresCluster, queue: RedisServer, network: BadNetwork) -> Iterator[Fleet]:
    """A fleet whose workers reach the database and the queue over the network."""
    with new_store(server.create(), pool_size=12) as database, Proxy(queue.port, network.host) as proxy:
        fleet = Fleet(folder, database, queue.url, lease_s=10)
        fleet.set_database_url(host=network.host)
        redis_url = f"redis://{network.host}:{proxy.port}/0"
        fleet.environment |= {"DOCMILL_REDIS_URL": redis_url, "DOCMILL_DATABASE_ANSWER_S": "2"}
        yield fleet


def open_jobs(fleet: Fleet, jobs: dict[int, list[str]]) -> list[int]:
    return [job for job in jobs if fleet.state(job) in {"ingesting", "running"}]
