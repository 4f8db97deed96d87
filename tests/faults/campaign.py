"""A nemesis at work on a fleet: strikes as planned, heals, waits for the end, and reads the books."""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field

import psycopg
import redis
from sqlalchemy import select, update

from docmill.storage.core.schema import Shard
from docmill.storage.core.schema import Worker as WorkerRow
from docmill.storage.errors import StorageError
from docmill.worker.errors import BrokerUnreachable
from docmill.worker.queue.broker import Broker
from docmill.worker.settings import LANES
from tests.faults.background_commands import Errands
from tests.faults.crew import Place, own_numbers
from tests.faults.fleet import Fleet
from tests.faults.nemesis import Fault, Storm, Strike, plan
from tests.faults.servers import PostgresCluster, RedisServer
from tests.faults.workload import Workload
from tests.storage.ledger import assert_exported

TICK_S = 0.05
STARTS_S = 60.0
STORED_S = 300.0
TAIL_LINES = 60
DRAIN_SLACK_S = 10.0  # the last words of a worker whose queue or store is away, on a machine that is busy


def seed_of_this_run() -> int:
    return int(os.environ.get("DOCMILL_TEST_SEED") or random.SystemRandom().randrange(10**6))


@dataclass
class Report:
    """A report of a campaign, for people."""

    seed: int
    store: str
    faults: Counter[Fault] = field(default_factory=Counter)
    times: list[str] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"nemesis on {self.store}: DOCMILL_TEST_SEED={self.seed}, {self.faults.total()} faults"]
        lines += [f"  {n:4d}  {fault}" for fault, n in sorted(self.faults.items())]
        return "\n".join([*lines, *(f"  {name}: {fact}" for name, fact in self.facts.items())])


class Campaign:
    """Three workers, a queue, a store and the jobs, from the first strike to the audit."""

    def __init__(
        self, fleet: Fleet, queue: RedisServer, cluster: PostgresCluster | None, storm: Storm, seed: int
    ) -> None:
        self.fleet = fleet
        self.queue = queue
        self.cluster = cluster
        self.storm = storm
        self.report = Report(seed, "SQLite" if cluster is None else "PostgreSQL")
        # The last one is a machine of its own, so that the lease alone tells of its death.
        self.places = [
            Place(fleet, str(n), apart=n == storm.workers - 1, options=["--threads", str(storm.threads)])
            for n in range(storm.workers)
        ]
        self.errands = Errands(fleet)
        self.work = Workload(fleet, self.errands, storm)
        self._chance = random.Random(seed)
        self._later: list[tuple[float, Callable[[], object]]] = []
        self._broker = Broker(queue.url)
        self._started = time.monotonic()

    def run(self) -> Report:
        try:
            self._begin()
            self._storm()
            self._heal()
            self._end()
        except BaseException:
            print(self._last_words())
            raise
        finally:
            self._count()
            print(self.report)
            for place in self.places:
                place.abandon()
            self.errands.abandon()
            self._broker.close()
        return self.report

    def _begin(self) -> None:
        self.work.begin()
        self._until(lambda: all(place.devices() for place in self.places), "the workers start", STARTS_S)
        self._until(lambda: self.errands.done, "the jobs are stored", STORED_S)
        self._started = time.monotonic()

    def _storm(self) -> None:
        strikes = plan(self.report.seed, self.storm, sqlite=self.cluster is None)
        steers = [self.storm.seconds * part for part in (0.1, 0.2, 0.4, 0.5, 0.6, 0.7)]
        for strike in strikes:
            while steers and steers[0] <= strike.at_s:
                self._wait(steers.pop(0))
                self.work.steer_on()
            self._wait(strike.at_s)
            if self._strike(strike):
                self.report.faults[strike.fault] += 1
                self._note(str(strike))
        self._wait(self.storm.seconds)
        while self.work.steer:
            self._until(lambda: self.errands.done, "what the operator asked for came through", self.storm.calm_s)
            self.work.steer_on()

    def _wait(self, at_s: float) -> None:
        while True:
            self._tend()
            if time.monotonic() >= self._started + at_s:
                return
            time.sleep(TICK_S)

    def _until(self, condition: Callable[[], object], what: str, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, f"never happened: {what}"
            self._tend()
            time.sleep(TICK_S)

    def _tend(self) -> None:
        now = time.monotonic()
        due = [act for at, act in self._later if at <= now]
        self._later = [(at, act) for at, act in self._later if at > now]
        for act in due:
            act()
        for place in self.places:
            place.tend()
        self.errands.tend()
        if not own_numbers():
            self._set_apart()

    def _set_apart(self) -> None:
        """Give the last worker's row another PID namespace, on machines where no process can have one."""
        apart = self.places[-1].devices()
        elsewhere = update(WorkerRow).where(WorkerRow.pid.in_(apart)).values(pid_space="elsewhere")
        with self.fleet.database.read() as transaction:
            seen = transaction.scalars(
                select(WorkerRow.pid).where(WorkerRow.pid.in_(apart), WorkerRow.pid_space != "elsewhere")
            ).all()
        if seen:
            self.fleet.database.write(lambda transaction: transaction.execute(elsewhere))

    def _after(self, for_s: float, act: Callable[[], object]) -> None:
        self._later.append((time.monotonic() + for_s, act))

    def _note(self, what: str) -> None:
        self.report.times.append(f"{time.strftime('%H:%M:%S')}  {what}")

    def _strike(self, strike: Strike) -> bool:
        """Strike, and return True if there was something to strike."""
        place = self.places[strike.place]
        match strike.fault:
            case Fault.WORKER_KILLED:
                return self._met(place.everybody(), lambda pids: place.kill(pids, strike.for_s))
            case Fault.DEVICE_KILLED:
                return self._met(place.devices(), place.kill)
            case Fault.WORKER_FROZEN:
                return self._met(place.everybody(), lambda pids: place.freeze(pids, strike.for_s))
            case Fault.DEVICE_FROZEN:
                return self._met(place.devices(), lambda pids: place.freeze(pids, strike.for_s))
            case Fault.WORKER_DRAINED:
                return place.tell(signal.SIGTERM, strike.for_s)
            case Fault.WORKER_QUIT:
                return place.tell(signal.SIGTERM) and place.tell(signal.SIGTERM, strike.for_s)
            case Fault.ENQUEUE_KILLED:
                self.work.another(strike.for_s)
                return True
            case _:
                return self._strike_server(strike)

    def _met(self, pids: list[int], act: Callable[[list[int]], None]) -> bool:
        act(pids)
        return bool(pids)

    def _strike_server(self, strike: Strike) -> bool:
        match strike.fault:
            case Fault.REDIS_KILLED:
                self.queue.kill()
                self._after(strike.for_s, self._redis_up)
            case Fault.REDIS_FROZEN:
                self.queue.freeze()
                self._after(strike.for_s, self.queue.thaw)
            case Fault.REDIS_FLUSHED:
                return self._flush()
            case Fault.HINTS_REPEATED:
                return self._repeat_hints()
            case Fault.POSTGRES_RESTARTED:
                assert self.cluster is not None
                self.cluster.restart_hard()
            case Fault.POSTGRES_CUT:
                return self._cut_connections()
            case Fault.SQLITE_HELD:
                self._hold_sqlite(strike.for_s)
        return True

    def _redis_up(self) -> None:
        if not self.queue.runs:
            self.queue.start()

    def _flush(self) -> bool:
        def flush() -> None:
            with suppress(redis.RedisError), self.queue.client() as client:
                client.flushall()

        # On a thread: the client waits a minute for a Redis that is frozen just now, and it is we who thaw it.
        threading.Thread(target=flush, daemon=True).start()
        return True

    def _repeat_hints(self) -> bool:
        """Every hint of the moment twice more, and some of what is long done, in any order."""
        try:
            with self.fleet.database.read() as transaction:
                rows = transaction.execute(select(Shard.id, Shard.lane).order_by(Shard.id.desc()).limit(200)).all()
        except StorageError:
            return False
        hints = [(row.lane, row.id) for row in rows] * 2
        self._chance.shuffle(hints)

        def publish() -> None:
            with suppress(BrokerUnreachable):
                for lane, shard_id in hints:
                    self._broker.publish(lane, [shard_id])

        # On a thread, as in `_flush`.
        threading.Thread(target=publish, daemon=True).start()
        return True

    def _cut_connections(self) -> bool:
        assert self.cluster is not None
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        try:
            with psycopg.connect(self.cluster.admin_url, autocommit=True, connect_timeout=5) as connection:
                connection.execute(f"{others} AND backend_type = 'client backend'")
        except psycopg.OperationalError:
            return False
        return True

    def _hold_sqlite(self, for_s: float) -> None:
        file = self.fleet.database.url.database
        assert file is not None

        def hold() -> None:
            holder = sqlite3.connect(file, timeout=5, isolation_level=None)
            with closing(holder), suppress(sqlite3.OperationalError):  # another of ours may hold it
                holder.execute("BEGIN IMMEDIATE")
                time.sleep(for_s)
                holder.execute("ROLLBACK")

        threading.Thread(target=hold, daemon=True).start()

    def _heal(self) -> None:
        self._note("healed")
        for _, act in sorted(self._later, key=lambda later: later[0]):
            act()
        self._later.clear()
        self._redis_up()
        for place in self.places:
            place.thaw()
        if self.storm.moves_time:
            self.fleet.set_shards(dispatched_at=Shard.dispatched_at - 60)

    def _end(self) -> None:
        healed = time.monotonic()
        left = self.storm.calm_s
        self._until(lambda: self.errands.done, "every command came through", left)
        self._until(lambda: not self.work.open_jobs(), "every job ends", left)
        self.report.facts["seconds from the heal to the last job's end"] = round(time.monotonic() - healed, 1)
        self.work.audit()
        assert_exported(self.fleet.database, LANES)
        for place in self.places:
            place.finish(self.drain_s + 5)
        slow = [end for place in self.places for end in place.ends if end.took_s > self.drain_s + DRAIN_SLACK_S]
        assert not slow, f"workers that took long to end: {slow}"
        odd = [*self.errands.oddities, *(oddity for place in self.places for oddity in place.oddities())]
        assert not odd, odd
        assert "Traceback" not in (logs := self._logs()), f"a traceback in the logs: {_around('Traceback', logs)}"

    @property
    def drain_s(self) -> float:
        return self.storm.drain_s or 25.0

    def _logs(self) -> str:
        return "\n".join(place.log.read_text(errors="replace") for place in self.places if place.log.exists())

    def _count(self) -> None:
        logs = self._logs()
        drains = [end.took_s for place in self.places for end in place.ends if end.told and end.took_s]
        self.report.facts |= {
            "documents": self.work.documents,
            "jobs": len(self.work.ordered),
            "device processes that died": logs.count("device_died"),
            "of which poison killed": len(self.fleet.strikes()),
            "workers found dead by a neighbour": logs.count("neighbour_died"),
            "shards whose lease lapsed": sum(map(int, re.findall(r"leases_lapsed shards=(\d+)", logs))),
            "shards lost to another (late results refused)": logs.count("lease_lost"),
            "commits that waited for the store": logs.count("commit_waits"),
            "hints sent again after a loss": sum(map(int, re.findall(r"hints_lost lane=\w+ shards=(\d+)", logs))),
            "commands killed, refused": (self.errands.killed, self.errands.refused),
            "longest drain, of": (round(max(drains, default=0.0), 1), len(drains)),
            "seconds in all": round(time.monotonic() - self._started, 1),
        }

    def _last_words(self) -> str:
        parts = ["\n".join(self.report.times)]
        for log in sorted(self.fleet.folder.glob("*.log")):
            parts.append(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:]))
        return "\n".join(parts)


def _around(word: str, text: str) -> str:
    at = text.index(word)
    return text[max(0, at - 500) : at + 2500]
