"""A store that is away, and machines that are suspended, for longer than a lease: nobody is blamed."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from sqlalchemy import Connection, select, update
from sqlalchemy.engine import make_url

from storage.leases.policy import MAX_LAPSES, VANISHED
from storage.schema import OutcomeRow, Shard
from tests.faults.mill import SHARD_TEXTS, THREADS, Mill, numbered
from tests.faults.proxy import Proxy
from tests.faults.test_poison import POISON
from tests.worker.harness import Running, device_pids, kill_group, until

OUTAGES = 5
N_SHARDS = 24
ENDS_S = 240.0


@pytest.fixture
def proxy(mill: Mill) -> Iterator[Proxy | None]:
    """A proxy between docmill's processes and PostgreSQL; None for a SQLite file."""
    if mill.database.is_sqlite:
        yield None
        return
    url = make_url(mill.environment["DOCMILL_DATABASE_URL"])
    assert url.port is not None
    with Proxy(url.port) as proxy:
        through = url.set(host="127.0.0.1", port=proxy.port)
        mill.environment["DOCMILL_DATABASE_URL"] = through.render_as_string(hide_password=False)
        yield proxy


@contextmanager
def outage(mill: Mill, proxy: Proxy | None) -> Iterator[None]:
    """Nobody but the test can write to the store: a server that refuses everybody, a file that another one writes."""
    if proxy is not None:
        with proxy.refusing():
            yield
        return
    with closing(sqlite3.connect(str(mill.database.url.database), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def check_books(mill: Mill, job: int) -> None:
    status = mill.finish(job, ENDS_S)
    assert (status.done, status.failed) == (N_SHARDS * SHARD_TEXTS, 0)
    shards = mill.shards(Shard.attempt, Shard.fence, Shard.suspect)
    assert {row.suspect for row in shards} == {0}
    assert {row.attempt for row in shards} == {1}
    # A claim raises the fence, and so does a shard's being taken away.
    again = sum((row.fence - 1) // 2 for row in shards)
    assert again <= OUTAGES * THREADS, "nothing is computed again but what was in flight"


def test_outages_of_the_store_longer_than_a_lease_fail_nobody(mill: Mill, proxy: Proxy | None) -> None:
    job = mill.give(numbered(N_SHARDS * SHARD_TEXTS), model="null@600")
    with mill.worker():
        for n in range(OUTAGES):
            until(lambda: mill.states()["running"], f"a shard is in flight before outage {n}")
            with outage(mill, proxy):
                until(mill.lapsed, f"its lease lapses in outage {n}")
            until(lambda: not mill.lapsed(), f"nobody's lease is over after outage {n}")
        check_books(mill, job)


def test_suspended_machines_fail_nobody(mill: Mill) -> None:
    job = mill.give(numbered(N_SHARDS * SHARD_TEXTS), model="null@600")
    with mill.worker() as worker:
        for n in range(OUTAGES):
            until(lambda: mill.states()["running"], f"a shard is in flight before suspend {n}")
            # While we write, so that hardly any of them holds a SQLite file meanwhile.
            mill.database.write(lambda _: signal_all(worker, signal.SIGSTOP))
            until(mill.lapsed, f"its lease lapses in suspend {n}")
            signal_all(worker, signal.SIGCONT)  # not while we write: one may hold the file
            until(lambda: not mill.lapsed(), f"nobody's lease is over after suspend {n}")
        check_books(mill, job)


def signal_all(worker: Running, number: signal.Signals) -> None:
    for pid in (worker.pid, *device_pids(worker)):
        os.kill(pid, number)


def test_a_document_that_takes_its_machine_down_ends_with_the_last_of_its_lapses(mill: Mill) -> None:
    job = mill.give([POISON])
    mill.set_shards(lapses=MAX_LAPSES - 2)  # it did so before, ever more rarely: that time is moved, not waited for
    for n in (1, 2):
        machine = mill.start_worker(fault="text:hang")
        compute_once_more(mill, n)
        kill_group(machine)
        mill.move_to_another_machine()
    with mill.worker():
        status = mill.finish(job)
    assert (status.done, status.failed) == (0, 1)
    with mill.database.read() as connection:
        [failure] = connection.execute(select(OutcomeRow.reason, OutcomeRow.reason_class)).all()
    assert (failure.reason, failure.reason_class) == (VANISHED, "transient")
    assert {row.suspect for row in mill.shards(Shard.suspect)} == {0}
    assert len(mill.strikes()) == 2


def compute_once_more(mill: Mill, n: int) -> None:
    """Wait until the document is computed for the n-th time, and move the time that it waits after a lapse."""

    def struck() -> bool:
        mill.database.write(_may_go_on)
        return len(mill.strikes()) == n

    until(struck, "it is computed")


def _may_go_on(connection: Connection) -> None:
    connection.execute(update(Shard).where(Shard.state == "planned").values(not_before=0.0))
