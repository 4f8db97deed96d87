"""Times at default settings, from a fault until the work goes on."""

from __future__ import annotations

import json
import os
import platform
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Shard
from docmill.storage.core.schema import Worker as WorkerRow
from docmill.storage.steps import jobs
from docmill.worker.settings import Settings
from tests.faults.crew import WorkerSlot, pid_namespace
from tests.faults.fleet import SHARD_TEXTS, Fleet, numbered
from tests.faults.proxy import Proxy
from tests.faults.servers import PostgresCluster, RedisServer
from tests.worker.harness import until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

VICTIMS = 5
ROUNDS = 2
STARTS_S = 90.0
THREADS = Settings.model_fields["threads"].default
LONG = "null@2"  # a batch of four minutes: whoever takes a shard holds it
QUICK = "null@2000"  # a batch of a quarter of a second
EASY = "null@400"  # a batch of 1.3 s


@pytest.fixture(scope="module")
def figures() -> Iterator[Figures]:
    figures = Figures()
    yield figures
    if path := os.environ.get("DOCMILL_TEST_FIGURES"):
        figures.write(Path(path))


class Rig(Fleet):
    """A fleet at default settings, and its workers."""

    def __init__(
        self, folder: Path, database: Database, queue: RedisServer, url: str | None = None, **more: str
    ) -> None:
        self.queue = queue
        self.store = "SQLite" if database.server is None else "PostgreSQL"
        super().__init__(folder, database, url or queue.url, lease_s=None, upkeep_s=None, threads=None, **more)
        self.places: list[WorkerSlot] = []

    @contextmanager
    def manned(self, n: int = 1, *options: str, apart: bool = False) -> Iterator[list[WorkerSlot]]:
        """Run `n` idle workers for the length of the block."""
        self.places = [WorkerSlot(self, str(i), apart=apart and i > 0, options=options) for i in range(n)]
        try:
            for place in self.places:
                place.start()
            until(lambda: len(self.live()) >= n, "the workers are ready", STARTS_S)
            yield self.places
        finally:
            for place in self.places:
                place.abandon()

    def owner_at(self, place: WorkerSlot) -> str | None:
        """Return the id of the device process of a place."""
        for pid in place.devices():
            space = str(Path(f"/proc/{pid}/ns/pid").readlink())
            numbers = Path(f"/proc/{pid}/status").read_text().split("NSpid:")[1].split("\n")[0].split()
            mine = select(WorkerRow.id).where(WorkerRow.pid == int(numbers[-1]), WorkerRow.pid_space.endswith(space))
            return self.database.value(mine.order_by(WorkerRow.started_at.desc()))
        return None

    def holds(self, place: WorkerSlot) -> bool:
        """Return True if the worker of a place holds shards. A dead worker is replaced first."""
        place.tend()
        return self.owner_at(place) in self.owners()

    def claimed(self, since: float) -> bool:
        """Return True if a shard was claimed after a time (seconds since 1970)."""
        return (self.database.value(select(func.max(Shard.started_at))) or 0.0) > since

    def finished(self, since: float) -> bool:
        return (self.database.value(select(func.max(Shard.finished_at))) or 0.0) > since

    def running(self, job: int) -> int:
        return sum(row.state == "running" and row.job_id == job for row in self.shards(Shard.state, Shard.job_id))


@pytest.fixture
def rig(tmp_path: Path, store: Database, own_redis: RedisServer) -> Rig:
    return Rig(tmp_path, store, own_redis)


class Killed:
    """Workers that were killed, and the seconds after which their shards were free."""

    def __init__(self, rig: Rig) -> None:
        self.killed_at: dict[str, float] = {}  # those who still hold something
        self.seconds: list[float] = []
        self._rig = rig

    def watch(self, for_s: float) -> None:
        """Watch for so many seconds."""
        end = time.monotonic() + for_s
        while time.monotonic() < end:
            self._look()

    def watch_all(self, within_s: float) -> None:
        """Watch until no killed worker holds a shard."""
        end = time.monotonic() + within_s
        while self.killed_at:
            assert time.monotonic() < end, "never claimable"
            self._look()

    def _look(self) -> None:
        held = self._rig.owners()
        self.seconds += [time.monotonic() - self.killed_at.pop(owner) for owner in self.killed_at.keys() - held]
        time.sleep(0.05)


@pytest.mark.parametrize("elsewhere", [True, False], ids=["another machine's", "this machine's"])
def test_shards_of_a_killed_worker_are_claimable_again(rig: Rig, figures: Figures, elsewhere: bool) -> None:
    if elsewhere and not pid_namespace():
        pytest.skip("no process may have numbers of its own here")
    rig.give(numbered(60 * SHARD_TEXTS), model=LONG)
    chance = random.Random(1)
    killed = Killed(rig)
    with rig.manned(1 + VICTIMS, apart=elsewhere) as [_, *victims]:
        for _ in range(ROUNDS):
            for victim in victims:
                until(lambda: rig.holds(victim), "it holds shards", STARTS_S)  # noqa: B023
            for victim in victims:
                killed.watch(chance.uniform(0, 5))  # at any moment of the upkeep
                owner = rig.owner_at(victim)
                assert owner is not None
                victim.kill(victim.all_pids(), 0.0)
                killed.killed_at[owner] = time.monotonic()
            killed.watch_all(120)
    where = "another machine" if elsewhere else "this machine"
    figures.note(f"kill -9 of a worker … its shards can be claimed ({where} looks)", rig.store, killed.seconds, 75)


def test_shards_of_a_killed_device_process_are_claimable_again(rig: Rig, figures: Figures) -> None:
    rig.give(numbered(60 * SHARD_TEXTS), model=LONG)
    seconds = []
    with rig.manned() as [place]:
        for _ in range(5):
            until(lambda: rig.holds(place), "it holds shards", STARTS_S)
            owner = rig.owner_at(place)
            place.kill(place.devices())
            seconds.append(time_until(lambda: owner not in rig.owners(), "they are free", 75))  # noqa: B023
    figures.note("kill -9 of a device process … its shards can be claimed", rig.store, seconds, 75)


@pytest.mark.parametrize(
    ("model", "batch"), [("null@100", "5 s"), ("null@10", "51 s"), ("null@2000", "0.3 s")], ids=lambda value: value
)
def test_a_worker_under_load_ends_in_time(rig: Rig, figures: Figures, model: str, batch: str) -> None:
    rig.give(numbered(200 * SHARD_TEXTS), model=model)
    seconds = []
    for _ in range(3):
        with rig.manned(1, "--threads", "8") as [place]:
            until(lambda: rig.states()["running"] == 8, "every thread has a shard", STARTS_S)
            time.sleep(random.uniform(0, 1))
            seconds.append(_drain_s(rig, place))
    figures.note(f"SIGTERM … exit, 8 threads, batches of {batch}", rig.store, seconds, 30)


def _drain_s(rig: Rig, place: WorkerSlot) -> float:
    assert place.tell(signal.SIGTERM)
    took_s = time_until(lambda: not place.lives, "the worker ends", 60)
    place.note_end()
    assert place.ends[-1].code == 0, rig.log("worker-0")
    assert rig.states()["running"] == 0, "what it held is committed or given back"
    return took_s


def test_after_redis_was_killed_shards_are_taken_again(rig: Rig, figures: Figures) -> None:
    rig.give(numbered(800 * SHARD_TEXTS), model=QUICK)
    seconds = []
    with rig.manned():
        for _ in range(3):
            until(lambda: rig.claimed(time.time() - 1), "shards are taken", STARTS_S)
            rig.queue.kill()
            rig.queue.start()
            up = time.time()
            seconds.append(time_until(lambda: rig.claimed(up + 1), "taken again", 120))  # noqa: B023
    figures.note("Redis killed and up again … shards are taken", rig.store, seconds, 75)


def test_queued_shards_are_taken_after_a_flushall(rig: Rig, figures: Figures) -> None:
    rig.give(numbered(800 * SHARD_TEXTS), model=EASY)
    seconds = []
    with rig.manned():
        for _ in range(2):
            until(lambda: rig.states()["queued"] >= 6, "the window is full", STARTS_S)
            lost = {row.id for row in rig.shards(Shard.id, Shard.state) if row.state == "queued"}
            with rig.queue.client() as client:
                client.flushall()
            seconds.append(time_until(lambda: not lost & _queued(rig), "all of them are taken", 120))  # noqa: B023
    figures.note("FLUSHALL … all that was queued is taken", rig.store, seconds, 75)


def _queued(rig: Rig) -> set[int]:
    return {row.id for row in rig.shards(Shard.id, Shard.state) if row.state == "queued"}


def test_a_half_open_connection_to_redis_is_noticed(
    tmp_path: Path, store: Database, own_redis: RedisServer, figures: Figures
) -> None:
    seconds = []
    with Proxy(own_redis.port) as proxy:
        rig = Rig(tmp_path, store, own_redis, url=f"redis://127.0.0.1:{proxy.port}/0")
        rig.give(numbered(800 * SHARD_TEXTS), model=QUICK)
        with rig.manned():
            for _ in range(2):
                until(lambda: rig.claimed(time.time() - 1), "shards are taken", STARTS_S)
                proxy.lose_all()
                silent = time.time()
                # What was on its way is taken within a moment.
                seconds.append(time_until(lambda: rig.claimed(silent + 5), "taken again", 120))  # noqa: B023
    figures.note("connections to Redis half open … shards are taken", rig.store, seconds, 60)


def test_after_a_hard_restart_of_postgresql_commits_go_on(
    tmp_path: Path, restartable: Database, own_postgres: PostgresCluster, own_redis: RedisServer, figures: Figures
) -> None:
    rig = Rig(tmp_path, restartable, own_redis)
    rig.give(numbered(800 * SHARD_TEXTS), model=QUICK)
    seconds = []
    with rig.manned():
        for _ in range(3):
            until(lambda: rig.finished(time.time() - 1), "shards are done", STARTS_S)
            own_postgres.restart_hard()
            up = time.time()
            seconds.append(time_until(lambda: rig.finished(up), "they are done again", 120))  # noqa: B023
    figures.note("PostgreSQL restarted hard and up again … a commit", rig.store, seconds, 75)


@pytest.mark.parametrize("act", [jobs.cancel, jobs.pause], ids=["cancel", "pause"])
def test_a_job_that_is_stopped_leaves_the_device(
    rig: Rig, figures: Figures, act: Callable[[Database, int], bool]
) -> None:
    seconds = []
    with rig.manned() as [place]:
        for n in range(3):
            job = rig.give(numbered(50 * SHARD_TEXTS, first=n * 10_000), model="null@100")
            until(lambda: rig.running(job) == THREADS, "every thread has one of its shards", STARTS_S)  # noqa: B023
            n_lost = place.log.read_text().count("lease_lost")
            act(rig.database, job)
            seconds.append(
                time_until(lambda: place.log.read_text().count("lease_lost") == n_lost + THREADS, "dropped", 60)  # noqa: B023
            )
    figures.note(f"{act.__name__} … its shards are dropped (their last batch may still end)", rig.store, seconds, 15)


@pytest.mark.parametrize("down", ["killed", "frozen"])
def test_enqueue_without_redis_ends_well(rig: Rig, figures: Figures, down: str) -> None:
    rig.queue.kill() if down == "killed" else rig.queue.freeze()
    seconds = []
    for n in range(3):
        path = rig.corpus(numbered(1000, first=n * 1000), f"{n}.jsonl")
        began = time.monotonic()
        rig("enqueue", "translate", path, "--model", QUICK)
        seconds.append(time.monotonic() - began)
    rig.queue.thaw()
    figures.note(f"docmill enqueue, Redis {down} … exit code 0", rig.store, seconds, 60)


class Figures:
    """The measurements so far."""

    def __init__(self) -> None:
        self._figures: list[dict[str, Any]] = []

    def note(self, name: str, store: str, seconds: list[float], bound_s: float) -> None:
        """Record measurements, and assert that they keep their bound."""
        seconds = [round(value, 2) for value in seconds]
        median_s, max_s = round(statistics.median(seconds), 2), max(seconds)
        figure = {"what": name, "store": store, "seconds": seconds, "median_s": median_s, "max_s": max_s}
        self._figures.append(figure | {"bound_s": bound_s})
        print(f"\n| {name} | {store} | {len(seconds)} | {median_s:.1f} | {max_s:.1f} | {bound_s:g} |")
        assert max_s <= bound_s, f"{name}: {max_s} s and not {bound_s} s"

    def write(self, path: Path) -> None:
        machine = {"system": platform.platform(), "python": platform.python_version()}
        measured = {"docmill": version("docmill"), "machine": machine, "figures": self._figures}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(measured, indent=2, ensure_ascii=False) + "\n")


def time_until(condition: Callable[[], Any], description: str, within_s: float) -> float:
    """Return the seconds until a condition is true."""
    began = time.monotonic()
    until(condition, description, within_s)
    return time.monotonic() - began
