"""The utilization of a device: the share of working time in which it computed, and the share of padding."""

from __future__ import annotations

from dataclasses import dataclass, field

from docmill.tasks.engine.engine import Counters

REPORT_S = 60.0


@dataclass(frozen=True)
class Reading:
    """The work of a device process since its start; ``working_s`` are the seconds in which it held a shard."""

    at: float = 0.0
    working_s: float = 0.0
    counters: Counters = field(default_factory=Counters)
    idle: bool = True


@dataclass(frozen=True)
class Report:
    """The difference between two readings."""

    working_s: float
    busy_s: float
    tokens_in: int
    tokens_out: int
    padded_tokens: int

    @classmethod
    def between(cls, before: Reading, after: Reading) -> Report:
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


def due(last: Reading, now: Reading) -> bool:
    """Return True if the work has ended since the last report, or a minute of work has passed."""
    worked = now.counters.batches > last.counters.batches
    return worked and (now.idle or now.at - last.at >= REPORT_S)
