"""Decide what to do with a shard after a failed attempt, and how many shards of each job to dispatch.

The fair share is max-min: the next shard is taken from the job of the highest priority that has the fewest in flight.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

MAX_ATTEMPTS = 5
LAPSES_TOGETHER = 3  # after so many lapses a shard runs alone
MAX_LAPSES = 12
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
    reason_class: str


def after_death(*, n_contents: int, suspect: int) -> PlanAgain | Split | GiveUp:
    """Return the step after the process that held a shard died and its supervisor saw it.

    The shard is split into suspects, which run alone, down to single documents. A document that kills its process
    twice while it runs alone fails.
    """
    if n_contents > 1:
        return Split()
    if suspect < 2:
        return PlanAgain(suspect=suspect + 1)
    return GiveUp(POISON, "document")


def runs_alone(*, suspect: int, lapses: int) -> bool:
    """Return True for a shard that may have taken down its process, or its whole machine."""
    return suspect > 0 or lapses >= LAPSES_TOGETHER


def after_lapse(*, n_contents: int, suspect: int, lapses: int) -> PlanAgain | Split | GiveUp:
    """Return the step after the lease of a shard lapsed for an unknown reason, for the `lapses`-th time.

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
    return GiveUp(VANISHED, "transient")


def after_error(*, attempt: int, suspect: int, reason: str) -> PlanAgain | GiveUp:
    """Return the step after an attempt failed by an error that no document caused: back off, then give up."""
    if attempt < MAX_ATTEMPTS:
        return PlanAgain(suspect=suspect, delay_s=min(60.0, 2.0**attempt))
    return GiveUp(reason, "transient")


@dataclass(frozen=True)
class Claimant:
    """A job that has shards to dispatch in a lane."""

    job_id: int
    priority: int
    in_flight: int
    planned: int


def share(claimants: Sequence[Claimant], room: int) -> dict[int, int]:
    """Return the number of shards to dispatch by job id, at most `room` in all. Jobs without any are left out."""
    heap = [(-c.priority, c.in_flight, c.job_id, c.planned) for c in claimants if c.planned > 0]
    heapq.heapify(heap)
    shares: dict[int, int] = {}
    while heap and room > 0:
        priority, in_flight, job_id, planned = heapq.heappop(heap)
        shares[job_id] = shares.get(job_id, 0) + 1
        room -= 1
        if planned > 1:
            heapq.heappush(heap, (priority, in_flight + 1, job_id, planned - 1))
    return shares
