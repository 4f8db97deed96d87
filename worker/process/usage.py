"""The use of time of a device process: what its shards waited for lately, and how long its device computed."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

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
