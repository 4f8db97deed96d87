"""A job's progress as pages show it."""

from __future__ import annotations

from dataclasses import dataclass

from docmill.storage.results.status import JobStatus
from docmill.worker.web.words import period

TONES = {  # by state: the tone of its badge
    "ingesting": "active",
    "running": "active",
    "paused": "quiet",
    "blocked": "bad",
    "done": "good",
    "stopped": "bad",
    "cancelled": "quiet",
}
TENTH = 10


@dataclass(frozen=True)
class Progress:
    """A job at one moment, with the words and shares that its bar shows."""

    status: JobStatus

    @property
    def state(self) -> str:
        """The state in a word: `waiting` for a job that no worker works on."""
        return "waiting" if self.status.no_worker else self.status.state

    @property
    def tone(self) -> str:
        return "warn" if self.status.no_worker else TONES.get(self.status.state, "quiet")

    @property
    def tasks(self) -> str:
        """The kinds of its steps, and the model if they have the same."""
        steps = self.status.steps
        models = {step.spec.model for step in steps}
        kinds = " → ".join(dict.fromkeys(step.spec.kind for step in steps))
        return f"{kinds} · {models.pop()}" if len(models) == 1 else kinds

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Texts done, skipped, failed and to do."""
        status = self.status
        return status.done, status.skipped, status.failed, status.pending

    @property
    def percent(self) -> int:
        """Return the percentage of texts that are finished, rounded down: 100 if all are."""
        status = self.status
        return 100 * (status.texts - status.pending) // status.texts if status.texts else 0

    @property
    def tenths(self) -> int:
        """The percents rounded down to tens, for what is read out: it should not speak every second."""
        return self.percent // TENTH * TENTH

    @property
    def left(self) -> str | None:
        """The time left in words, with both its ends; None while it is not known."""
        left = self.status.time_left
        if left.low_s is None or not self.status.pending:
            return None
        low = period(left.low_s)
        if left.high_s is None:
            return f"at least {low} left"
        high = period(left.high_s)
        return f"{low} left" if low == high else f"{low} to {high} left"

    @property
    def wait(self) -> str | None:
        """The reason why the job makes no progress, or why it was stopped."""
        reason = self.status.waiting_for or self.status.reason
        return None if reason is None else reason.removesuffix(".")
