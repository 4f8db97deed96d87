"""The use of time of a device process: what its shards waited for lately, and how long its device computed."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from docmill.tasks.engine.engine import Counters

WINDOW_S = 60.0
READING, CUTTING, COMPUTING, WRITING = PHASES = ("reading", "cutting", "computing", "writing")


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


REPORT_S = 60.0


@dataclass(frozen=True)
class UsageTotals:
    """The work of a device process since its start; ``working_s`` are the seconds in which it held a shard."""

    at: float = 0.0
    working_s: float = 0.0
    counters: Counters = field(default_factory=Counters)
    idle: bool = True


@dataclass(frozen=True)
class UsageDifference:
    """The difference between two readings."""

    working_s: float
    busy_s: float
    tokens_in: int
    tokens_out: int
    padded_tokens: int

    @classmethod
    def between(cls, before: UsageTotals, after: UsageTotals) -> UsageDifference:
        old, new = before.counters, after.counters
        return cls(
            working_s=after.working_s - before.working_s,
            busy_s=new.busy_s - old.busy_s,
            tokens_in=new.tokens_in - old.tokens_in,
            tokens_out=new.tokens_out - old.tokens_out,
            padded_tokens=new.padded_tokens - old.padded_tokens,
        )

    def __str__(self) -> str:
        busy = _share(self.busy_s, self.working_s)
        padding = _share(self.padded_tokens - self.tokens_in, self.padded_tokens)
        rate = _share(self.tokens_in + self.tokens_out, self.working_s)
        return f"working_s={self.working_s:.1f} busy={busy:.1%} padding={padding:.1%} tokens_per_s={rate:.0f}"


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def due(last: UsageTotals, now: UsageTotals) -> bool:
    """Return True if the work has ended since the last report, or a minute of work has passed."""
    worked = now.counters.batches > last.counters.batches
    return worked and (now.idle or now.at - last.at >= REPORT_S)
