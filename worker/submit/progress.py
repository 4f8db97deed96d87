"""Listeners to an ingest: a base that does nothing, and the listener of an ingest that runs under a lease."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from docmill.storage.duplicates.progress import Phase
from docmill.storage.ingest.chunks import Rejected
from docmill.storage.ingest.ingest import Counts
from docmill.storage.steps.jobs import OpenJob
from docmill.worker.concurrency.renewal import Held


class Progress:
    """A listener to an ingest; this one does nothing. Counts are totals so far."""

    def opened(self, job: OpenJob) -> None:
        """The job has its number."""

    def advanced(self, counts: Counts) -> None:
        """Another chunk is stored."""

    def rejected(self, rejected: Rejected) -> None:
        """A record could not be read."""

    def deduplicating(self, phase: Phase, done: int, total: int) -> None:
        """The search for near duplicates came further; `done` of `total` steps of a phase are done."""


@dataclass(frozen=True)
class UnderLease(Progress):
    """Notes the job of an ingest as soon as it has a number, and stops the ingest once the lease is lost.

    ``note`` stores the number and returns False if the lease may be lost.
    """

    held: Held
    note: Callable[[OpenJob], bool]

    def opened(self, job: OpenJob) -> None:
        if not self.note(job):
            self.held.confirm()

    def advanced(self, counts: Counts) -> None:
        self.held.check()

    def deduplicating(self, phase: Phase, done: int, total: int) -> None:
        self.held.check()
