"""Throughput over time, and the seconds in which devices were at work, from a job's finished shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from docmill.storage.results.job_counts import FinishedShard

WIDTHS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)


@dataclass(frozen=True)
class Timeline:
    """Tokens per second by period: `rates[i]` holds from `start + i * width_s` on, at most `width_s` long."""

    start: float
    width_s: float
    rates: tuple[float, ...]


def timeline(shards: Sequence[FinishedShard], periods: int = 40) -> Timeline | None:
    """Return the throughput in at most so many periods; None without shards.

    The tokens of a shard count evenly over the time in which a worker held it.
    """
    if not shards:
        return None
    start, end = min(shard.started_at for shard in shards), max(shard.finished_at for shard in shards)
    width_s = _width(end - start, periods)
    tokens = [0.0] * max(1, -int(-(end - start) // width_s))
    for shard in shards:
        length = shard.finished_at - shard.started_at
        if length <= 0:
            tokens[min(len(tokens) - 1, int((shard.finished_at - start) / width_s))] += shard.tokens
            continue
        first, last = shard.started_at - start, shard.finished_at - start
        for period in range(int(first / width_s), min(len(tokens) - 1, int(last / width_s)) + 1):
            held = min(last, (period + 1) * width_s) - max(first, period * width_s)
            tokens[period] += shard.tokens * max(0.0, held) / length
    widths = [width_s] * (len(tokens) - 1) + [max(end - start - (len(tokens) - 1) * width_s, 0.001)]
    return Timeline(start, width_s, tuple(n / width for n, width in zip(tokens, widths, strict=True)))


def _width(length_s: float, periods: int) -> float:
    return next((width for width in WIDTHS_S if length_s <= width * periods), length_s / periods)


def device_seconds(shards: Sequence[FinishedShard]) -> dict[str, float]:
    """Return by worker process the seconds in which it held at least one shard; shards that overlap count once."""
    found: dict[str, float] = {}
    until: dict[str, float] = {}
    for shard in sorted(shards, key=lambda shard: shard.started_at):
        begin = max(shard.started_at, until.get(shard.owner, shard.started_at))
        found[shard.owner] = found.get(shard.owner, 0.0) + max(0.0, shard.finished_at - begin)
        until[shard.owner] = max(until.get(shard.owner, shard.finished_at), shard.finished_at)
    return found
