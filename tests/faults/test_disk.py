"""A full disk, and a SQLite file that another process writes: nothing is half stored, and the work goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from docmill.storage.core.database import Database
from tests.faults.fleet import SHARD_TEXTS, Fleet, numbered
from tests.faults.servers import PostgresCluster, open_folder, tmpfs
from tests.kinds import new_store
from tests.worker.harness import until

MB = 1_000_000
LONG = " ".join(["word"] * 400)  # 2 kB a text, and as much for its translation
IMPATIENT = """
from docmill.storage.core.database import Database
Database.__init__.__kwdefaults__.update(retries=2, busy_timeout_s=0.2)
"""


class Ballast:
    """A file that fills its disk."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ballast"

    def fill(self) -> None:
        with self._path.open("ab", buffering=0) as file:
            for size in (MB, 4096):
                try:
                    while file.write(b"\0" * size):
                        pass
                except OSError:
                    continue

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> Iterator[tuple[Fleet, Ballast]]:
    """An impatient fleet whose store has a disk of its own, and a file that can fill the disk."""
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder())
        disk = stack.enter_context(tmpfs(folder / "disk", 24 * MB if request.param == "sqlite" else 80 * MB))
        url = f"sqlite:///{disk / 'docmill.db'}"
        if request.param == "postgresql":
            (folder / "log").mkdir()
            # A server that cannot write its log gives up; it is the tables that have no room here.
            cluster = stack.enter_context(PostgresCluster(disk / "cluster", wal=folder / "log"))
            url = cluster.create()
        fleet = Fleet(tmp_path, stack.enter_context(new_store(url, pool_size=12)), redis_url)
        fleet.patch(IMPATIENT)
        yield fleet, Ballast(disk)


def texts(n: int) -> list[str]:
    return [f"{text} {LONG}" for text in numbered(n)]


def test_results_wait_for_room_on_a_full_disk_and_the_log_says_so(small_disk: tuple[Fleet, Ballast]) -> None:
    fleet, ballast = small_disk
    job = fleet.give(texts(600), model="null@100000")
    with fleet.worker(lease_s=600):
        until(lambda: fleet.outcomes()["done"], "some of it is done")
        ballast.fill()
        until(lambda: "commit_waits" in fleet.log("worker"), "a result waits for room")
        n_stored = fleet.outcomes()["done"]
        assert n_stored < 600
        ballast.remove()
        status = fleet.finish(job)
    assert status.done == 600
    log = fleet.log("worker")
    assert "full" in log or "No space left" in log
    assert "Traceback" not in log


@pytest.mark.long_on("postgresql")
def test_an_enqueue_that_meets_a_full_disk_says_so_and_is_carried_on(small_disk: tuple[Fleet, Ballast]) -> None:
    fleet, ballast = small_disk
    path = fleet.corpus(texts(1500))
    ballast.fill()
    enqueue = ("enqueue", "translate", path, "--model", "null")
    refused = fleet(*enqueue, code=3)
    assert "full" in refused.stderr or "No space left" in refused.stderr
    ballast.remove()
    assert fleet.json(*enqueue)["documents"] == 1500
    with fleet.worker():
        assert fleet.finish(1).done == 1500


def test_a_sqlite_file_that_another_writes_is_waited_for(sqlite: Database, tmp_path: Path, redis_url: str) -> None:
    fleet = Fleet(tmp_path, sqlite, redis_url)
    fleet.patch(IMPATIENT)
    job = fleet.give(numbered(8 * SHARD_TEXTS), model="null@3000")
    writer = sqlite3.connect(str(sqlite.file), isolation_level=None)
    with fleet.worker():
        while "commit_waits" not in fleet.log("worker"):  # shards in flight may have ended before the lock
            until(lambda: fleet.states()["running"], "some shards run")
            writer.execute("BEGIN IMMEDIATE")
            until(
                lambda: "commit_waits" in fleet.log("worker") or not fleet.states()["running"],
                "a result waits for its turn, or none is in flight",
            )
            writer.execute("ROLLBACK")
        status = fleet.finish(job)
    writer.close()
    assert status.done == 8 * SHARD_TEXTS
    assert "Traceback" not in fleet.log("worker")
