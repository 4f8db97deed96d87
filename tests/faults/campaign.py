"""A nemesis for a fleet: it strikes as planned, heals, waits for the jobs to end, and audits the store."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import psycopg
import redis
from sqlalchemy import select, update

from docmill.storage.core.schema import Job, Shard
from docmill.storage.core.schema import Worker as WorkerRow
from docmill.storage.errors import StorageError
from docmill.storage.leases.policy import POISON
from docmill.storage.results.results import failures, results
from docmill.storage.results.status import read_status
from docmill.tasks.backends.weightless import vector
from docmill.worker.errors import BrokerUnreachable
from docmill.worker.jobs.errors import UNREACHABLE
from docmill.worker.queue.broker import Broker
from docmill.worker.settings import LANES
from tests.fault_points import MARKER
from tests.faults.checker import abbreviate, check, read_books
from tests.faults.crew import WorkerSlot, pid_namespace
from tests.faults.fleet import Fleet
from tests.faults.servers import PostgresCluster, RedisServer
from tests.storage.invariants import assert_invariants
from tests.storage.ledger import assert_exported
from tests.worker.harness import Running


class Fault(StrEnum):
    WORKER_KILLED = "kill -9 of a whole worker"
    DEVICE_KILLED = "kill -9 of a device process"
    WORKER_FROZEN = "a whole worker frozen"
    DEVICE_FROZEN = "a device process frozen"
    WORKER_DRAINED = "SIGTERM"
    WORKER_QUIT = "SIGTERM twice"
    REDIS_KILLED = "Redis killed and started again"
    REDIS_FLUSHED = "FLUSHALL"
    REDIS_FROZEN = "Redis frozen"
    HINTS_REPEATED = "hints sent again, in any order"
    ENQUEUE_KILLED = "enqueue killed and run again"
    POSTGRES_RESTARTED = "PostgreSQL restarted hard"
    POSTGRES_CUT = "all connections to PostgreSQL cut"
    SQLITE_HELD = "SQLite held by another writer"


ON_POSTGRES = {Fault.POSTGRES_RESTARTED, Fault.POSTGRES_CUT}
ON_SQLITE = {Fault.SQLITE_HELD}
WEIGHTS = {  # 2 for all others
    Fault.WORKER_KILLED: 3,
    Fault.DEVICE_KILLED: 3,
    Fault.WORKER_DRAINED: 3,
    Fault.WORKER_QUIT: 1,
    Fault.SQLITE_HELD: 4,
}


@dataclass(frozen=True)
class Storm:
    """The length, strength and targets of a series of faults. A setting that is None has its default."""

    seconds: float = 30.0
    gap_s: float = 1.5  # between two faults, on average
    lease_s: float | None = 3.0
    upkeep_s: float | None = 0.5
    drain_s: float | None = 5.0
    longest_freeze_s: float = 6.0
    longest_outage_s: float = 4.0  # of Redis, or of a place to write in the store
    workers: int = 3
    threads: int = 3
    pace: int = 400  # tokens a second on each device; a text has eight
    texts: int = 1_200  # of each of the jobs that are there from the start
    late_texts: int = 3_000  # of each that comes later, a hundred times as quick
    poison: int = 1
    moves_time: bool = True  # after it; else the half minute is waited for after which hints count as lost
    calm_s: float = 120.0  # within so long after it every job has ended


AT_DEFAULTS = Storm(
    seconds=600.0,
    gap_s=4.5,
    lease_s=None,
    upkeep_s=None,
    drain_s=None,
    longest_freeze_s=100.0,
    longest_outage_s=20.0,
    texts=18_000,
    poison=2,
    moves_time=False,
    calm_s=900.0,
)


@dataclass(frozen=True)
class Strike:
    """A fault at a time, in seconds from the start. `place` is the worker that it strikes, for faults of workers."""

    at_s: float
    fault: Fault
    place: int
    for_s: float

    def __str__(self) -> str:
        return f"{self.at_s:6.1f} s  {self.fault} (worker {self.place}, {self.for_s:.1f} s)"


def plan(seed: int, storm: Storm, *, sqlite: bool) -> list[Strike]:
    """Return the storm's faults in the order of their times."""
    chance = random.Random(seed)
    excluded = ON_POSTGRES if sqlite else ON_SQLITE
    faults = [fault for fault in Fault if fault not in excluded]
    strikes: list[Strike] = []
    at_s = 0.0
    while True:
        at_s += chance.uniform(0.2, 1.8) * storm.gap_s
        if at_s >= storm.seconds:
            return strikes
        [fault] = chance.choices(faults, [WEIGHTS.get(fault, 2) for fault in faults])
        shortest_s, longest_s = _lengths(storm, fault)
        # Most are short, and some are as long as can be.
        for_s = shortest_s + (longest_s - shortest_s) * chance.random() ** 2
        strikes.append(Strike(round(at_s, 2), fault, chance.randrange(storm.workers), round(for_s, 2)))


def _lengths(storm: Storm, fault: Fault) -> tuple[float, float]:
    if fault in {Fault.WORKER_FROZEN, Fault.DEVICE_FROZEN}:
        return 0.1, storm.longest_freeze_s
    if fault is Fault.ENQUEUE_KILLED:
        return 0.7, 3.0  # it has begun to store, or is about to
    return 0.1, storm.longest_outage_s


AGAIN_S = 0.5
PATIENCE_S = 120.0  # a command that says nothing for longer hangs


@dataclass(frozen=True)
class Errand:
    """A command. Its first run is killed after `kill_after_s`. `then` gets its JSON output."""

    arguments: tuple[str, ...]
    kill_after_s: float | None = None
    then: Callable[[Any], None] = lambda answer: None


class Errands:
    """Runs commands one at a time, in their order, and repeats those that fail for want of a server."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._left: deque[Errand] = deque()
        self._process: Running | None = None
        self._began = 0.0
        self._tries = 0
        self.oddities: list[str] = []

    def give(self, *arguments: Any, kill_after_s: float | None = None, then: Any = lambda answer: None) -> None:
        self._left.append(Errand(tuple(map(str, arguments)), kill_after_s, then))

    @property
    def done(self) -> bool:
        return not self._left

    def tend(self) -> None:
        if not self._left:
            return
        now = time.monotonic()
        errand = self._left[0]
        if self._process is None:
            if now >= self._began:
                self._start(errand)
        elif (code := self._process.poll()) is not None:
            self._note_exit(errand, code)
        elif self._tries == 1 and errand.kill_after_s is not None and now - self._began > errand.kill_after_s:
            self._process.kill()
        elif now - self._began > PATIENCE_S:
            self.oddities.append(f"hangs: {' '.join(errand.arguments)}")
            self._process.kill()

    def _start(self, errand: Errand) -> None:
        self._tries += 1
        self._began = time.monotonic()
        # What it says goes to a file, so that a full pipe stops nobody.
        with self._file("out").open("wb") as out, self._file("log").open("ab") as log:
            self._process = self._fleet.launch((*errand.arguments, "--json"), out, log)

    def _note_exit(self, errand: Errand, code: int) -> None:
        self._process = None
        self._began = time.monotonic() + AGAIN_S
        if code == 0:
            self._left.popleft()
            self._tries = 0
            errand.then(json.loads(self._file("out").read_text() or "null"))
        elif code > 0 and code != UNREACHABLE:
            self.oddities.append(f"exit code {code}: {' '.join(errand.arguments)}")

    def _file(self, kind: str) -> Path:
        return self._fleet.folder / f"errand.{kind}"

    def abandon(self) -> None:
        self._left.clear()
        if self._process is not None:
            self._process.kill()
            self._process.wait()


TASKS = ("translate", "summarize", "embed")
ENDED = ("done", "cancelled", "stopped")


@dataclass
class OrderedJob:
    """A job that was ordered. `id` is known once its command has succeeded."""

    name: str
    task: str
    texts: dict[str, str]  # by document
    id: int | None = None
    cancelled: bool = False
    had_ended: bool = False  # when it was cancelled

    def note_cancelled(self, answer: dict[str, Any]) -> None:
        self.had_ended = not answer["cancelled"]

    @property
    def poison(self) -> set[str]:
        return {key for key, text in self.texts.items() if MARKER in text}


@dataclass
class Workload:
    """Jobs of several tasks with overlapping corpora, enqueued by commands that may be killed."""

    fleet: Fleet
    errands: Errands
    storm: Storm
    ordered: list[OrderedJob] = field(default_factory=list)

    def begin(self) -> None:
        """Order the first jobs. Two of them share texts and task, and some of the texts are poison."""
        n = self.storm.texts
        poison = {f"poison-{i}": f"{MARKER} number {i} kills whoever computes it." for i in range(self.storm.poison)}
        first = self._order("first", "translate", numbered(0, n) | poison)
        twin = self._order("twin", "translate", dict(list(poison.items())[:1]) | numbered(n // 2, n))
        brief = self._order("brief", "summarize", numbered(0, n))
        self._order("vectors", "embed", numbered(n // 4, n))
        doomed = self._order("doomed", "translate", numbered(5 * n, n))
        for ordered in self.ordered:
            self.give(ordered)
        self.steer = [("pause", twin), ("priority", brief), ("cancel", doomed), ("resume", twin), ("pause", first)]
        self.steer += [("resume", first)]

    def steer_on(self) -> None:
        """Give the operator's next command."""
        if not self.steer:
            return
        command, ordered = self.steer.pop(0)
        if ordered.id is None:  # not stored yet: later
            self.steer.insert(0, (command, ordered))
            return
        if command == "cancel":
            ordered.cancelled = True
            self.errands.give(command, ordered.id, then=ordered.note_cancelled)
        else:
            self.errands.give(command, ordered.id, *([5] if command == "priority" else []))

    def add_job(self, kill_after_s: float) -> None:
        """Order another job while the others run. Its command is killed and repeated."""
        number = len(self.ordered)
        n = self.storm.late_texts
        ordered = self._order(f"late-{number}", TASKS[number % len(TASKS)], numbered(10**6 + number * n // 2, n))
        self.give(ordered, kill_after_s=kill_after_s, haste=100)

    def _order(self, name: str, task: str, texts: dict[str, str]) -> OrderedJob:
        self.ordered.append(OrderedJob(name, task, texts))
        return self.ordered[-1]

    def give(self, ordered: OrderedJob, *, kill_after_s: float | None = None, haste: int = 1) -> None:
        path = self._file(ordered)

        def note_id(answer: Any) -> None:
            ordered.id = answer["id"]

        model = f"null@{haste * self.storm.pace}"
        self.errands.give("enqueue", ordered.task, path, "--model", model, kill_after_s=kill_after_s, then=note_id)

    def _file(self, ordered: OrderedJob) -> Path:
        path = self.fleet.folder / f"{ordered.name}.jsonl"
        lines = (json.dumps({"id": key, "text": text}) for key, text in ordered.texts.items())
        path.write_text("\n".join(lines))
        return path

    @property
    def documents(self) -> int:
        return sum(len(ordered.texts) for ordered in self.ordered)

    def open_jobs(self) -> list[int]:
        return [*self.fleet.database.values(select(Job.id).where(Job.state.not_in(ENDED)).order_by(Job.id))]

    def audit(self) -> None:
        """Assert that no result is lost, doubled or of another text, and that only poison failed."""
        for ordered in self.ordered:
            assert ordered.id is not None, f"{ordered.name} was never stored"
            if ordered.had_ended:  # before the cancel, or by a cancel whose answer was lost
                ordered.cancelled = read_status(self.fleet.database, ordered.id).state == "cancelled"
            check(self.fleet.database, ordered.id, state="cancelled" if ordered.cancelled else "done")
            _audit(self.fleet, ordered, ordered.id)


def _audit(fleet: Fleet, ordered: OrderedJob, job: int) -> None:
    books = read_books(fleet.database, job)
    assert set(books.contents) == set(ordered.texts), f"{ordered.name}: the store has other documents than the source"
    failed = {row["id"]: row for row in failures(fleet.database, job)}
    blamed = {key: row["reason"] for key, row in failed.items() if key not in ordered.poison}
    assert not blamed, f"{ordered.name}: documents that failed for no fault of theirs: {abbreviate(blamed.items())}"
    assert all(row["reason"] == POISON for row in failed.values()), failed
    assert ordered.cancelled or set(failed) == ordered.poison, f"{ordered.name}: poison that did not fail"
    wrong = [row["id"] for row in results(fleet.database, job) if not _is_right(ordered, row)]
    assert not wrong, f"{ordered.name}: outputs of other texts: {abbreviate(wrong)}"


def _is_right(ordered: OrderedJob, row: dict[str, Any]) -> bool:
    text = ordered.texts[row["id"]]
    if ordered.task == "embed":
        return bool((row["vector"] == vector(text).values).all())
    return bool(row["text"] == text)


def numbered(first: int, n: int) -> dict[str, str]:
    return {str(i): f"Text number {i} has eight words or so." for i in range(first, first + n)}


TICK_S = 0.05
STARTS_S = 60.0
STORED_S = 300.0
TAIL_LINES = 60
DRAIN_SLACK_S = 10.0  # the last words of a worker whose queue or store is away, on a machine that is busy


def seed_of_this_run() -> int:
    return int(os.environ.get("DOCMILL_TEST_SEED") or random.SystemRandom().randrange(10**6))


@dataclass
class CampaignReport:
    """A readable report of a campaign."""

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
    """Workers, a queue, a store and jobs, from the first strike to the audit."""

    def __init__(
        self, fleet: Fleet, queue: RedisServer, cluster: PostgresCluster | None, storm: Storm, seed: int
    ) -> None:
        self.fleet = fleet
        self.queue = queue
        self.cluster = cluster
        self.storm = storm
        self.report = CampaignReport(seed, "SQLite" if cluster is None else "PostgreSQL")
        # The last one is a machine of its own, so that the lease alone tells of its death.
        self.places = [
            WorkerSlot(fleet, str(n), apart=n == storm.workers - 1, options=["--threads", str(storm.threads)])
            for n in range(storm.workers)
        ]
        self.errands = Errands(fleet)
        self.work = Workload(fleet, self.errands, storm)
        self._chance = random.Random(seed)
        self._later: list[tuple[float, Callable[[], object]]] = []
        self._broker = Broker(queue.url)
        self._started = time.monotonic()

    def run(self) -> CampaignReport:
        try:
            self._begin()
            self._storm()
            self._heal()
            self._end()
        except BaseException:
            print(self._describe_failure())
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
            with suppress(StorageError):  # the store may be away just now
                assert_invariants(self.fleet.database)
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

    def _until(self, condition: Callable[[], object], description: str, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, f"never happened: {description}"
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
        if not pid_namespace():
            self._set_apart()

    def _set_apart(self) -> None:
        """Give the last worker's row another PID namespace, on machines where no process can have one."""
        apart = self.places[-1].devices()
        unmarked = WorkerRow.pid.in_(apart), WorkerRow.pid_space != "elsewhere"
        if self.fleet.database.values(select(WorkerRow.pid).where(*unmarked)):
            self.fleet.database.execute(update(WorkerRow).where(*unmarked).values(pid_space="elsewhere"))

    def _after(self, for_s: float, act: Callable[[], object]) -> None:
        self._later.append((time.monotonic() + for_s, act))

    def _note(self, text: str) -> None:
        self.report.times.append(f"{time.strftime('%H:%M:%S')}  {text}")

    def _strike(self, strike: Strike) -> bool:
        """Strike, and return True if the fault had a target."""
        place = self.places[strike.place]
        match strike.fault:
            case Fault.WORKER_KILLED:
                return self._strike_processes(place.all_pids(), lambda pids: place.kill(pids, strike.for_s))
            case Fault.DEVICE_KILLED:
                return self._strike_processes(place.devices(), place.kill)
            case Fault.WORKER_FROZEN:
                return self._strike_processes(place.all_pids(), lambda pids: place.freeze(pids, strike.for_s))
            case Fault.DEVICE_FROZEN:
                return self._strike_processes(place.devices(), lambda pids: place.freeze(pids, strike.for_s))
            case Fault.WORKER_DRAINED:
                return place.tell(signal.SIGTERM, strike.for_s)
            case Fault.WORKER_QUIT:
                return place.tell(signal.SIGTERM) and place.tell(signal.SIGTERM, strike.for_s)
            case Fault.ENQUEUE_KILLED:
                self.work.add_job(strike.for_s)
                return True
            case _:
                return self._strike_server(strike)

    def _strike_processes(self, pids: list[int], act: Callable[[list[int]], None]) -> bool:
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
        """Send the latest hints twice more, of finished shards too, in random order."""
        try:
            rows = self.fleet.database.rows(select(Shard.id, Shard.lane).order_by(Shard.id.desc()).limit(200))
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
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        try:
            with psycopg.connect(self.cluster.admin_url, autocommit=True, connect_timeout=5) as connection:
                connection.execute(f"{query} AND backend_type = 'client backend'")
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
            self.fleet.end_grace()

    def _end(self) -> None:
        healed = time.monotonic()
        calm_s = self.storm.calm_s
        self._until(lambda: self.errands.done, "every command came through", calm_s)
        self._until(lambda: not self.work.open_jobs(), "every job ends", calm_s)
        self.report.facts["seconds from the heal to the last job's end"] = round(time.monotonic() - healed, 1)
        self.work.audit()
        assert_exported(self.fleet.database, LANES)
        for place in self.places:
            place.finish(self.drain_s + 5)
        slow = [end for place in self.places for end in place.ends if end.took_s > self.drain_s + DRAIN_SLACK_S]
        assert not slow, f"workers that took long to end: {slow}"
        odd = [*self.errands.oddities, *(oddity for place in self.places for oddity in place.oddities())]
        assert not odd, odd
        assert "Traceback" not in (logs := self._logs()), (
            f"a traceback in the logs: {excerpt_around('Traceback', logs)}"
        )

    @property
    def drain_s(self) -> float:
        return self.storm.drain_s or 25.0

    def _logs(self) -> str:
        return "\n".join(place.log.read_text(errors="replace") for place in self.places if place.log.exists())

    def _count(self) -> None:
        logs = self._logs()
        self.report.facts |= {
            "documents": self.work.documents,
            "jobs": len(self.work.ordered),
            "shards whose lease lapsed": sum(map(int, re.findall(r"leases_lapsed shards=(\d+)", logs))),
            "shards lost to another (late results refused)": logs.count("lease_lost"),
            "seconds in all": round(time.monotonic() - self._started, 1),
        }

    def _describe_failure(self) -> str:
        parts = ["\n".join(self.report.times)]
        for log in sorted(self.fleet.folder.glob("*.log")):
            parts.append(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:]))
        return "\n".join(parts)


def excerpt_around(word: str, text: str) -> str:
    at = text.index(word)
    return text[max(0, at - 500) : at + 2500]
