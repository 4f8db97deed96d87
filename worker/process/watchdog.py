"""The time that a step of a device process may take before it counts as hung. Callers pass the clock.

A step is a batch on the device, or the cutting of a shard's texts. The cost of earlier steps of a kind, per token or
character, bounds the next one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

SLACK = 30.0  # an output may be so many times as long as any before it
CUT = "cut"
CUT_S_PER_CHAR = 5e-5  # five times as long as the worst text that was found takes with any tokenizer that was tried


@dataclass(frozen=True)
class Step:
    """Something that began and has not ended. `size` is in tokens or characters."""

    name: str
    kind: str
    size: int
    since: float


@dataclass
class Watchdog:
    """The open steps of one device process, and the cost of batches.

    `least_s` is the least time that any step has, `most_s` the most that a batch has, and what the first of its
    kind has. Costs outlive the process; `forget_steps` when another takes its place.
    """

    least_s: float
    most_s: float
    _costs: dict[str, float] = field(default_factory=dict)
    _open: dict[str, Step] = field(default_factory=dict)

    def begin(self, step: Step) -> None:
        self._open[step.name] = step

    def end(self, name: str, now: float) -> None:
        step = self._open.pop(name, None)
        if step is not None:
            cost = (now - step.since) / max(step.size, 1)
            self._costs[step.kind] = max(cost, self._costs.get(step.kind, 0.0))

    def limit_s(self, kind: str, size: int) -> float:
        """Return the seconds that a step of this kind and size may take. A document of any size may be cut."""
        if kind == CUT:
            return max(self.least_s, CUT_S_PER_CHAR * size)
        cost = self._costs.get(kind)
        if cost is None:
            return self.most_s
        return min(self.most_s, max(self.least_s, SLACK * cost * size))

    def hung(self, now: float) -> Step | None:
        """A step that has taken longer than it may."""
        for step in list(self._open.values()):
            if now - step.since > self.limit_s(step.kind, step.size):
                return step
        return None

    def forgive(self, lost_s: float) -> None:
        """Do not count a time in which the watching process was frozen."""
        for name, step in list(self._open.items()):
            self._open[name] = replace(step, since=step.since + lost_s)

    def forget_steps(self) -> None:
        self._open.clear()
