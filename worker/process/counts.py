"""Counters of a worker's work, memory and time, from the reports of its device processes."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # the supervisor never loads the engine
    from docmill.storage.core.specs import Outcome
    from docmill.tasks.backends.devices import Memory
    from docmill.tasks.engine.engine import Counters

Key: TypeAlias = str  # a name and label values, separated by tabs, as it travels in JSON

COUNTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "texts": ("Texts committed, by kind of task and status.", ("kind", "status")),
    "failures": ("Texts that failed, by kind of task and class of reason.", ("kind", "reason")),
    "flags": ("Flags on committed results, by kind of task.", ("kind", "flag")),
    "shards": ("Shards that this worker committed or gave back whole or in part.", ("kind", "end")),
    "leases_lost": ("Shards that were taken from this worker while it computed them.", ()),
    "commit_retries": ("Commits that the store refused at first.", ()),
    "batches": ("Batches that the device computed.", ()),
    "tokens": ("Tokens that the device read (in) and wrote (out).", ("direction",)),
    "padded_tokens": ("Tokens that the device read, with padding.", ()),
    "device_busy_seconds": ("Seconds in which the device computed.", ()),
    "working_seconds": ("Seconds in which the process held a shard.", ()),
}
GAUGES: Mapping[str, str] = {
    "device_memory_used_bytes": "Memory of the device that holds models and batches.",
    "device_memory_reserved_bytes": "Memory that torch took from a GPU, with its cache.",
    "resident_memory_bytes": "Memory of the machine that the device process has.",
}
WINDOW_S = 60.0
READING, CUTTING, COMPUTING, WRITING = PHASES = ("reading", "cutting", "computing", "writing")


class DeviceCounter:
    """Counts the events of all threads of a device process. No count ever falls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[Key] = Counter()

    def add(self, name: str, *labels: str) -> None:
        """Count one more. Raises KeyError for a name that is not declared."""
        assert len(labels) == len(COUNTERS[name][1])
        with self._lock:
            self._counts["\t".join((name, *labels))] += 1

    def committed(self, kind: str, outcomes: Iterable[Outcome]) -> None:
        """Count the outcomes that were committed for a kind of task."""
        for outcome in outcomes:
            self.add("texts", kind, str(outcome.status))
            if outcome.reason_class is not None:
                self.add("failures", kind, str(outcome.reason_class))
            for flag in outcome.flags:
                self.add("flags", kind, flag)

    def counts(self) -> dict[Key, float]:
        """Return all counts so far."""
        with self._lock:
            return dict(self._counts)


def of_device(counters: Counters, working_s: float) -> dict[Key, float]:
    """Return the counters of a device process's engine."""
    return {
        "batches": counters.batches,
        "tokens\tin": counters.tokens_in,
        "tokens\tout": counters.tokens_out,
        "padded_tokens": counters.padded_tokens,
        "device_busy_seconds": counters.busy_s,
        "working_seconds": working_s,
    }


def of_memory(memory: Memory) -> dict[str, int]:
    """Return the gauges of a device process's memory, without those that are not known."""
    values = zip(GAUGES, (memory.used, memory.reserved, memory.resident), strict=True)
    return {name: value for name, value in values if value is not None}


class WorkByDevice:
    """The work of a worker by device, from the reports of its device processes.

    A device process that died is counted with the process that takes its place, so no counter ever falls. Its memory
    is gone with it.
    """

    def __init__(self, devices: Iterable[str] = ()) -> None:
        self._lock = threading.Lock()
        self._ended: dict[str, Counter[Key]] = {}
        self._living: dict[str, Mapping[Key, float]] = {}
        self._gauges: dict[str, Mapping[str, float]] = {}
        # From the start, so that the first death is seen as a growth.
        self._deaths = Counter(dict.fromkeys(devices, 0))

    def report(self, device: str, counts: Mapping[Key, float], gauges: Mapping[str, float]) -> None:
        """Take the counts of a device's process since its start, and its gauges."""
        with self._lock:
            self._living[device] = counts
            self._gauges[device] = gauges

    def ended(self, device: str) -> None:
        """Keep the last counts of a device's process, which has died."""
        with self._lock:
            self._ended.setdefault(device, Counter()).update(self._living.pop(device, {}))
            self._gauges.pop(device, None)
            self._deaths[device] += 1

    def read(self) -> tuple[dict[str, Counter[Key]], dict[str, int], dict[str, Mapping[str, float]]]:
        """Return the counts, the deaths and the gauges by device."""
        with self._lock:
            devices = sorted({*self._ended, *self._living})
            totals = {device: Counter(self._ended.get(device, Counter())) for device in devices}
            for device, counts in self._living.items():
                totals[device].update(counts)
            return totals, dict(self._deaths), dict(self._gauges)


class TimeUse:
    """Counts the seconds of shards by phase, from all threads of a process.

    `reading` claims a shard and reads its texts from the store, `cutting` tokenizes them, `computing` waits for the
    device to compute them, and `writing` stores the outcomes, with the time in which the store refuses them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds: Counter[str] = Counter()
        self._readings: deque[tuple[float, Counter[str]]] = deque()

    @contextmanager
    def spent(self, phase: str) -> Iterator[None]:
        """Count the time of the block."""
        since = self._clock()
        try:
            yield
        finally:
            with self._lock:
                self._seconds[phase] += self._clock() - since  # type: ignore[assignment]

    def lately(self, working_s: float, busy_s: float) -> dict[str, float]:
        """Return the seconds of about the last minute: of each phase, of the process at work, and of its device.

        The arguments are those since the start.
        """
        now = self._clock()
        with self._lock:
            total = Counter({**self._seconds, "working": working_s, "device": busy_s})
            self._readings.append((now, total))
            while len(self._readings) > 1 and self._readings[1][0] <= now - WINDOW_S:
                self._readings.popleft()
            since: Mapping[str, float] = self._readings[0][1] if len(self._readings) > 1 else Counter()
        return {
            name: round(max(0.0, total[name] - since.get(name, 0.0)), 3) for name in (*PHASES, "working", "device")
        }
