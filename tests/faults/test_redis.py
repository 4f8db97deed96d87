"""Redis killed, emptied, full, silent or not there: a delay, and never a loss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from docmill.storage.core.database import Database
from docmill.storage.leases import dispatch
from tests.faults.fleet import SHARD_TEXTS, Fleet, numbered
from tests.faults.proxy import Proxy
from tests.faults.servers import RedisServer
from tests.worker.harness import until

NOTICED_S = 60.0
QUICK_TO_NOTICE = """
import docmill.worker.queue.broker
docmill.worker.queue.broker.CONFIG["broker_transport_options"] |= {"socket_timeout": 2, "health_check_interval": 1}
"""


@pytest.fixture
def fleet(tmp_path: Path, database: Database, own_redis: RedisServer) -> Fleet:
    return Fleet(tmp_path, database, own_redis.url)


@pytest.fixture
def proxy(own_redis: RedisServer) -> Iterator[Proxy]:
    with Proxy(own_redis.port) as proxy:
        yield proxy


def test_a_redis_that_is_killed_three_times_loses_nothing(fleet: Fleet, own_redis: RedisServer) -> None:
    n, first, kills = 4 * SHARD_TEXTS, 0, 0
    with fleet.worker():
        while kills < 3:
            job = fleet.give(numbered(n, first), model="null@2000")
            until(lambda: fleet.states()["running"] or "queued" not in fleet.states(), "some of it runs")
            own_redis.kill()
            struck = fleet.states()["queued"] > 0
            own_redis.start()
            fleet.end_grace()
            assert fleet.finish(job).done == n
            kills, first = kills + struck, first + n
            n *= 1 if struck else 2  # the work ended before: try it again with more


def test_hints_are_sent_again_after_a_flushall(fleet: Fleet, own_redis: RedisServer) -> None:
    job = fleet.give(numbered(8 * SHARD_TEXTS), model="null@2000")
    with fleet.worker(fault="batch:hang"):
        fleet.wait_until_busy()
        assert fleet.states()["queued"]
        with own_redis.client() as client:
            client.flushall()
        fleet.end_grace()
        fleet.release()
        assert fleet.finish(job).done == 8 * SHARD_TEXTS


def test_an_enqueue_without_redis_is_durable_and_says_that_dispatch_is_deferred(
    fleet: Fleet, own_redis: RedisServer
) -> None:
    path = fleet.corpus(numbered(2 * SHARD_TEXTS))
    own_redis.stop()
    completed = fleet("enqueue", "translate", path, "--model", "null", code=0)
    assert "Dispatch deferred" in completed.stderr
    job = int(completed.stdout)
    assert fleet.states() == {"planned": 2}
    own_redis.start()
    with fleet.worker():
        fleet.finish(job)


def test_a_redis_without_room_delays_the_work_until_there_is_room_again(fleet: Fleet, own_redis: RedisServer) -> None:
    path = fleet.corpus(numbered(24 * SHARD_TEXTS))
    with own_redis.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        completed = fleet("enqueue", "translate", path, "--model", "null@3000", code=0)
        assert "Dispatch deferred" in completed.stderr
        job = int(completed.stdout)
        assert fleet.states() == {"planned": 24}, "what was not sent is not believed to be"
        with fleet.worker(fault="batch:hang"):
            until(lambda: "maintenance_waits" in fleet.log("worker"), "it says what it waits for")
            until(lambda: fleet.states() == {"planned": 24}, "what could not be sent is planned again")
            client.config_set("maxmemory", "0")
            fleet.wait_until_busy()
            client.config_set("maxmemory", "1")
            dispatch.withdraw(fleet.database, ["translate"])  # maintenance may have sent all that the queue takes
            fleet.release()
            until(lambda: "top_up_failed" in fleet.log("worker"), "no hint can be sent")
            client.config_set("maxmemory", "0")
            fleet.end_grace()
            fleet.finish(job)


def test_a_connection_that_is_half_open_is_noticed(fleet: Fleet, proxy: Proxy) -> None:
    fleet.environment["DOCMILL_REDIS_URL"] = f"redis://127.0.0.1:{proxy.port}/0"
    fleet.patch(QUICK_TO_NOTICE)
    first = fleet.give(numbered(SHARD_TEXTS))
    with fleet.worker():
        fleet.finish(first)
        proxy.lose_all()
        second = fleet.give(numbered(SHARD_TEXTS, first=1000))

        def is_done() -> bool:
            fleet.end_grace()  # Redis gave the hint to the connection that is no more
            return fleet.states().keys() == {"done"}

        until(is_done, "the worker asks for hints on a new connection")
        fleet.finish(second)


def test_default_settings_notice_a_half_open_connection_in_time() -> None:
    from docmill.worker.queue.broker import CONFIG

    options = CONFIG["broker_transport_options"]
    # As kombu says of a half-open BRPOP; what it brings is noted over other connections, which are as silent.
    brpop_s = 1 + 2 * options["health_check_interval"]
    assert brpop_s + 2 * options["socket_timeout"] <= NOTICED_S


def test_device_processes_outlive_a_redis_that_takes_no_writes(fleet: Fleet, own_redis: RedisServer) -> None:
    with own_redis.client() as client, fleet.worker():
        until(fleet.live, "the worker is ready")
        workers = fleet.live()
        client.replicaof("127.0.0.1", 1)  # of a server that is not there
        refused = "can't write against a read only replica"
        until(lambda: fleet.log("worker").count(refused) > 1, "the device process has reconnected, and asks again")
        client.replicaof("NO", "ONE")
        fleet.finish(fleet.give(numbered(SHARD_TEXTS)))
        assert fleet.live() == workers
