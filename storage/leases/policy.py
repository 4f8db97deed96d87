"""What becomes of a shard whose attempt ended badly, and which shards are dispatched next. Pure.

The fair share is max-min: a dispatch goes to the job of the highest priority that has the least in flight.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

MAX_ATTEMPTS = 5
LAPSES_TOGETHER = 3  # a shard whose lease lapsed so often runs alone from then on
MAX_LAPSES = 12
POISON = "this document killed its process twice while nothing else was in flight"
VANISHED = "the workers that computed this document vanished, again and again: it may take a whole machine down"


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
    """The step after somebody saw that the process that held a shard died.

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


def runs_alone(*, suspect: int, lapses: int) -> bool:
    """Return True for a shard that may have taken down its process, or its whole machine."""
    return suspect > 0 or lapses >= LAPSES_TOGETHER


def after_lapse(*, n_contents: int, suspect: int, lapses: int) -> Again | Split | GiveUp:
    """Return the step after the lease of a shard lapsed, which makes `lapses` of them, and nobody knows why.

    A machine may have been suspended, or cut off from the store; so nothing is suspected. A document that takes whole
    machines down looks the same. So a shard that lapses again and again runs alone, is split, and waits ever longer,
    which parts it from healthy ones; a document gives up after a number that no other reason brings about.
    """
    if lapses < LAPSES_TOGETHER:
        return Again(suspect=suspect)
    if n_contents > 1:
        return Split()
    if lapses < MAX_LAPSES:
        return Again(suspect=suspect, delay_s=min(300.0, 2.0**lapses))
    return GiveUp(VANISHED, "transient")


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
