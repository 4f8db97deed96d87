"""A store that is away, and machines that are suspended, for longer than a lease: no document fails."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager

import pytest

from docmill.storage.core.schema import Shard
from tests.faults.fleet import SHARD_TEXTS, THREADS, Fleet, numbered
from tests.faults.proxy import Proxy
from tests.worker.harness import Running, device_pids, kill_group, until

N_SHARDS = 24
# Shards that take a second, and some that take longer than a lease.
OUTAGES = pytest.mark.parametrize(
    ("outages", "tokens_per_s"),
    [(2, 600), pytest.param(5, 600, marks=pytest.mark.long), pytest.param(5, 200, marks=pytest.mark.long)],
)
ENDS_S = 240.0


@pytest.fixture
def proxy(fleet: Fleet) -> Iterator[Proxy | None]:
    """A proxy between docmill's processes and PostgreSQL; None for a SQLite file."""
    if fleet.database.server is None:
        yield None
        return
    assert fleet.database.url.port is not None
    with Proxy(fleet.database.url.port) as proxy:
        fleet.set_database_url(host="127.0.0.1", port=proxy.port)
        yield proxy


@contextmanager
def outage(fleet: Fleet, proxy: Proxy | None) -> Iterator[None]:
    """Make the store unwritable: a server refuses every connection, a file is locked by another writer."""
    if proxy is not None:
        with proxy.refusing():
            yield
        return
    with closing(sqlite3.connect(str(fleet.database.url.database), isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        yield
        writer.execute("ROLLBACK")


def check_books(fleet: Fleet, job: int, outages: int) -> None:
    status = fleet.finish(job, ENDS_S)
    assert (status.done, status.failed) == (N_SHARDS * SHARD_TEXTS, 0)
    shards = fleet.shards(Shard.attempt, Shard.fence, Shard.suspect)
    assert {row.suspect for row in shards} == {0}
    # What was stored of a shard when its lease lapsed is a shard of its own, which nobody claimed.
    assert max(row.attempt for row in shards) == 1
    # A claim raises the fence, and so does a shard's being taken away.
    n_recomputed = sum((row.fence - 1) // 2 for row in shards)
    assert n_recomputed <= outages * THREADS, "nothing is computed again but what was in flight"


def let_lapse(fleet: Fleet, fault: Callable[[], AbstractContextManager[None]]) -> None:
    """Hold a fault until a lease lapses. If the shards in flight ended before, try again."""
    while not fleet.lapsed():
        until(lambda: fleet.states()["running"], "a shard is in flight before the fault")
        with fault():
            until(lambda: fleet.lapsed() or not fleet.states()["running"], "its lease lapses, or it has ended")
            if fleet.lapsed():
                return


@OUTAGES
def test_outages_of_the_store_longer_than_a_lease_fail_no_document(
    fleet: Fleet, proxy: Proxy | None, outages: int, tokens_per_s: int
) -> None:
    job = fleet.give(numbered(N_SHARDS * SHARD_TEXTS), model=f"null@{tokens_per_s}")
    with fleet.worker():
        for n in range(outages):
            let_lapse(fleet, lambda: outage(fleet, proxy))
            until(lambda: not fleet.lapsed(), f"nobody's lease is over after outage {n}")
        check_books(fleet, job, outages)


@OUTAGES
def test_suspended_machines_fail_no_document(fleet: Fleet, outages: int, tokens_per_s: int) -> None:
    job = fleet.give(numbered(N_SHARDS * SHARD_TEXTS), model=f"null@{tokens_per_s}")
    with fleet.worker() as worker:
        for n in range(outages):
            let_lapse(fleet, lambda: suspended(fleet, worker))
            until(lambda: not fleet.lapsed(), f"nobody's lease is over after suspend {n}")
        check_books(fleet, job, outages)


@contextmanager
def suspended(fleet: Fleet, worker: Running) -> Iterator[None]:
    """Stop a worker while we write, so that hardly any of its threads holds a SQLite file meanwhile."""
    fleet.database.write(lambda _: signal_all(worker, signal.SIGSTOP))
    yield
    signal_all(worker, signal.SIGCONT)


def signal_all(worker: Running, number: signal.Signals) -> None:
    for pid in (worker.pid, *device_pids(worker)):
        os.kill(pid, number)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_exporter_that_starts_without_a_database_says_so_until_there_is_one(fleet: Fleet, proxy: Proxy) -> None:
    def metrics() -> str:
        match = re.search(r"Metrics: (\S+)", fleet.log("metrics"))
        if match is None:
            return ""
        with urllib.request.urlopen(match[1], timeout=60) as answer:
            return str(answer.read().decode())

    with ExitStack() as stack:
        with proxy.refusing():
            exporter = fleet.start("metrics", "--port", 0)
            stack.callback(kill_group, exporter)
            until(lambda: "docmill_database_up 0.0" in metrics(), "the exporter says that there is no database")
        until(lambda: "docmill_database_up 1.0" in metrics(), "the exporter says that the database is there")
        assert "docmill_documents 0.0" in metrics()
