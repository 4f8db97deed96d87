"""What becomes of a shard whose attempt ended badly, and which shards are dispatched next. Pure.

The fair share is max-min: a dispatch goes to the job of the highest priority that has the least in flight.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

MAX_ATTEMPTS = 5
POISON = "this document killed its process twice while nothing else was in flight"


@dataclass(frozen=True)
class Again:
    """Back to `planned`, not before `delay_s` from now."""

    suspect: int
    delay_s: float = 0.0


@dataclass(frozen=True)
class Split:
    """Into smaller shards, each a suspect, since one of their documents may be poison."""


@dataclass(frozen=True)
class GiveUp:
    """The contents that still lack an outcome fail with this reason."""

    reason: str
    reason_class: str


def after_death(*, n_contents: int, suspect: int) -> Again | Split | GiveUp:
    """The step after the process that held a shard died, or stayed silent past the lease.

    A first death proves nothing, since other shards were in flight too. A suspect ran alone, so a second death
    is its own doing: it is split, down to the one document, which fails on its second death alone.
    """
    if suspect == 0:
        return Again(suspect=1)
    if n_contents > 1:
        return Split()
    if suspect == 1:
        return Again(suspect=2)
    return GiveUp(POISON, "document")


def after_error(*, attempt: int, suspect: int, reason: str) -> Again | GiveUp:
    """The step after an attempt ended with an error that is nobody's document: backs off, then gives up."""
    if attempt < MAX_ATTEMPTS:
        return Again(suspect=suspect, delay_s=min(60.0, 2.0**attempt))
    return GiveUp(reason, "transient")


@dataclass(frozen=True)
class Claimant:
    """A job that has shards to dispatch in a lane."""

    job_id: int
    priority: int
    in_flight: int
    planned: int


def share(claimants: Sequence[Claimant], room: int) -> dict[int, int]:
    """How many shards of each job to dispatch into `room` places: job id → shards (jobs with none are absent)."""
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
