"""Plans of faults, drawn from a seed: the same seed gives the same plan."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


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
WEIGHTS = {
    Fault.WORKER_KILLED: 3,
    Fault.DEVICE_KILLED: 3,
    Fault.WORKER_FROZEN: 2,
    Fault.DEVICE_FROZEN: 2,
    Fault.WORKER_DRAINED: 3,
    Fault.WORKER_QUIT: 1,
    Fault.REDIS_KILLED: 2,
    Fault.REDIS_FLUSHED: 2,
    Fault.REDIS_FROZEN: 2,
    Fault.HINTS_REPEATED: 2,
    Fault.ENQUEUE_KILLED: 2,
    Fault.POSTGRES_RESTARTED: 2,
    Fault.POSTGRES_CUT: 2,
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

    @property
    def settings(self) -> dict[str, float]:
        named = {"lease_s": self.lease_s, "upkeep_s": self.upkeep_s, "drain_s": self.drain_s}
        return {name: value for name, value in named.items() if value is not None}


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
    """A fault at a time, in seconds from the start; `place` is the worker that it meets, if it is one that does."""

    at_s: float
    fault: Fault
    place: int
    for_s: float

    def __str__(self) -> str:
        return f"{self.at_s:6.1f} s  {self.fault} (worker {self.place}, {self.for_s:.1f} s)"


def plan(seed: int, storm: Storm, *, sqlite: bool) -> list[Strike]:
    """The storm's faults in the order of their times."""
    chance = random.Random(seed)
    others = ON_POSTGRES if sqlite else ON_SQLITE
    faults = [fault for fault in Fault if fault not in others]
    strikes: list[Strike] = []
    at_s = 0.0
    while True:
        at_s += chance.uniform(0.2, 1.8) * storm.gap_s
        if at_s >= storm.seconds:
            return strikes
        [fault] = chance.choices(faults, [WEIGHTS[fault] for fault in faults])
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
