"""The pace of workers, and which of them are slower than others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

LEAST_SHARDS = 3  # of a worker and spec: the first shard also loads the model


@dataclass(frozen=True)
class Pace:
    """Shards that a worker finished: their texts, the tokens that the model read, and the seconds that they took."""

    shards: int
    texts: int
    tokens: int
    held_s: float

    @property
    def mean_s(self) -> float:
        """The mean time of a shard."""
        return self.held_s / self.shards

    @property
    def rate_s(self) -> float | None:
        """Seconds for a token, or for a text if no tokens were counted; None of nothing."""
        work = self.tokens or self.texts
        return self.held_s / work if work else None


def total(paces: Iterable[Pace]) -> Pace:
    """Return the sum of paces."""
    found = [*paces]
    return Pace(
        sum(one.shards for one in found),
        sum(one.texts for one in found),
        sum(one.tokens for one in found),
        sum(one.held_s for one in found),
    )


def slowness(paces: Mapping[str, Mapping[int, Pace]]) -> dict[str, float]:
    """Return how many times as long each worker's shards took as those of others, for the same specs and tokens.

    `paces` has the paces of each worker by spec. The time of others is the median of their seconds per token. Workers
    that share no spec with another are left out.
    """
    rates: dict[int, dict[str, float]] = {}
    for worker, by_spec in paces.items():
        for spec_id, pace in by_spec.items():
            if pace.shards >= LEAST_SHARDS and pace.rate_s:
                rates.setdefault(spec_id, {})[worker] = pace.rate_s
    found = {}
    for worker, by_spec in paces.items():
        own_s, others_s = 0.0, 0.0
        for spec_id, of_spec in rates.items():
            others = [rate for other, rate in of_spec.items() if other != worker]
            if worker in of_spec and others:
                held_s = by_spec[spec_id].held_s
                own_s += held_s
                others_s += held_s * median(others) / of_spec[worker]
        if others_s:
            found[worker] = own_s / others_s
    return found
