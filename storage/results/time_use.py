"""The use of time of the workers that compute a job: where the last minute went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TimeUse:
    """Shares from 0 to 1, over about the last minute of the workers that hold shards of a job.

    `device_busy` is the share of their working time in which their devices computed. The others are shares of the
    time of shards: `reading` texts from the store, `cutting` them into windows, `computing` (with the wait for the
    device), and `writing` results to the store. A worker may compute other jobs at the same time.
    """

    device_busy: float
    reading: float
    cutting: float
    computing: float
    writing: float


def time_use(seconds: Iterable[Mapping[str, float]]) -> TimeUse | None:
    """Return the shares of the seconds that workers reported; None if they report none."""
    total: dict[str, float] = {}
    for one in seconds:
        for name, value in one.items():
            total[name] = total.get(name, 0.0) + float(value)
    phases = [total.get(name, 0.0) for name in ("reading", "cutting", "computing", "writing")]
    if not sum(phases):
        return None
    working = total.get("working", 0.0)
    busy = min(1.0, total.get("device", 0.0) / working) if working else 0.0
    return TimeUse(round(busy, 4), *(round(phase / sum(phases), 4) for phase in phases))
