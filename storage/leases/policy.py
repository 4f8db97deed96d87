"""Decide what to do with a shard after a failed attempt, and how many shards of each job to dispatch.

The fair share is max-min: the next shard is taken from the job of the highest priority that has the fewest in flight.
Jobs with a common sharer count together, by weight.
"""

from __future__ import annotations

import heapq
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from docmill.storage.core.specs import Reason

MAX_ATTEMPTS = 5
LAPSES_TOGETHER = 3  # after so many lapses a shard runs alone
MAX_LAPSES = 12
_ROUNDING = 1e-6  # shards
POISON = "this document killed its process twice while nothing else was in flight"
VANISHED = "the workers that computed this document vanished, again and again: it may take a whole machine down"


@dataclass(frozen=True)
class PlanAgain:
    """Plan the shard again; dispatch it after `delay_s` at the earliest."""

    suspect: int
    delay_s: float = 0.0


@dataclass(frozen=True)
class Split:
    """Split the shard into smaller suspects, since one of its documents may kill its process."""


@dataclass(frozen=True)
class GiveUp:
    """Fail the contents that still lack an outcome, with this reason."""

    reason: str
    reason_class: Reason


def after_death(*, n_contents: int, suspect: int) -> PlanAgain | Split | GiveUp:
    """Return the decision after the process that held a shard died and its supervisor saw it.

    The shard is split into suspects, which run alone, down to single documents. A document that kills its process
    twice while it runs alone fails.
    """
    if n_contents > 1:
        return Split()
    if suspect < 2:
        return PlanAgain(suspect=suspect + 1)
    return GiveUp(POISON, Reason.DOCUMENT)


def runs_alone(*, suspect: int, lapses: int) -> bool:
    """Return True for a shard that may have taken down its process, or its whole machine."""
    return suspect > 0 or lapses >= LAPSES_TOGETHER


def after_lapse(*, n_contents: int, suspect: int, lapses: int) -> PlanAgain | Split | GiveUp:
    """Return the decision after the lease of a shard lapsed for an unknown reason, for the `lapses`-th time.

    The machine may have been suspended or cut off from the store, so the shard is no suspect. A document that takes
    whole machines down looks the same. So a shard whose leases lapse repeatedly runs alone, is split, and is retried
    after longer and longer delays. A single document fails after `MAX_LAPSES`.
    """
    if lapses < LAPSES_TOGETHER:
        return PlanAgain(suspect=suspect)
    if n_contents > 1:
        return Split()
    if lapses < MAX_LAPSES:
        return PlanAgain(suspect=suspect, delay_s=min(300.0, 2.0**lapses))
    return GiveUp(VANISHED, Reason.TRANSIENT)


def after_error(*, attempt: int, suspect: int, reason: str) -> PlanAgain | GiveUp:
    """Return the decision after an attempt failed by an error that no document caused: back off, then give up."""
    if attempt < MAX_ATTEMPTS:
        return PlanAgain(suspect=suspect, delay_s=min(60.0, 2.0**attempt))
    return GiveUp(reason, Reason.TRANSIENT)


@dataclass(frozen=True)
class Claimant:
    """A job that has shards to dispatch in a lane.

    The job shares workers with the other jobs of its `sharer`, which have `shared` shards in flight together, in
    proportion to `weight`. A job without a sharer shares by itself. `affords` maps each of its budgets to the number
    of further shards that it pays for.
    """

    job_id: int
    priority: int
    in_flight: int
    planned: int
    sharer: str | None = None
    shared: int = 0
    weight: int = 1
    affords: Mapping[str, int] = field(default_factory=dict)

    @property
    def group(self) -> int | str:
        return self.job_id if self.sharer is None else self.sharer

    @property
    def of_group(self) -> int:
        """The number of shards that its group has in flight."""
        return self.in_flight if self.sharer is None else self.shared

    def rank(self, more: int = 0, more_of_group: int = 0) -> tuple[float, ...]:
        """Return a sort key: the lowest gets the next shard.

        `more` and `more_of_group` are shards given out since.
        """
        return (-self.priority, (self.of_group + more_of_group) / self.weight, self.in_flight + more, self.job_id)


def choose_newcomers(claimants: Sequence[Claimant], priority: int) -> list[int]:
    """Return a job of each group that has this priority and no shard in flight, in the order of their ranks.

    A budget that jobs have in common has to pay for one shard of each.
    """
    first: dict[int | str, int] = {}
    left = {name: n for claimant in claimants for name, n in claimant.affords.items()}
    for claimant in sorted(claimants, key=Claimant.rank):
        is_new = claimant.priority == priority and claimant.of_group == 0 and claimant.group not in first
        if is_new and all(left[name] > 0 for name in claimant.affords):
            first[claimant.group] = claimant.job_id
            left.update({name: left[name] - 1 for name in claimant.affords})
    return [*first.values()]


def count_affordable(rest: float, ended_cost: float, n_shards: int) -> int:
    """Return the number of shards to have in flight, so that little is spent beyond a cost limit.

    It is the `rest` of the limit, including the cost so far of shards in flight, divided by the mean cost of the
    `n_shards` that ended. The first shard runs alone, to measure that cost.
    """
    if not n_shards:
        return 1
    mean = ended_cost / n_shards
    return math.ceil(min(rest / mean - _ROUNDING, sys.maxsize)) if mean else sys.maxsize


def choose_turns(claimants: Sequence[Claimant], room: int) -> list[int]:
    """Return the jobs from which to dispatch the next shards, at most `room` in all, in the order of their turns."""
    turns: list[int] = []
    shares, of_groups = Counter[int](), Counter[int | str]()
    left = {name: n for claimant in claimants for name, n in claimant.affords.items()}
    heap = [(claimant.rank(), claimant) for claimant in claimants if claimant.planned > 0]
    heapq.heapify(heap)
    while heap and len(turns) < room:
        rank, first = heapq.heappop(heap)
        if any(left[name] <= 0 for name in first.affords):
            continue
        # An entry is stale if its group got a shard since it was pushed: it is only pushed again.
        if rank == first.rank(shares[first.job_id], of_groups[first.group]):
            turns.append(first.job_id)
            shares[first.job_id] += 1
            of_groups[first.group] += 1
            left.update({name: left[name] - 1 for name in first.affords})
        if shares[first.job_id] < first.planned:
            heapq.heappush(heap, (first.rank(shares[first.job_id], of_groups[first.group]), first))
    return turns
