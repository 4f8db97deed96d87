"""The counts of one step of a job, and of its escalation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from docmill.storage.core.specs import Spec
from docmill.storage.steps.steps import Failures


@dataclass(frozen=True)
class StepStatus:
    """A step of a job at one moment, in unique texts.

    `blocked` counts texts of the step before that have no output for this step: they failed, or were skipped or
    blocked. `escalated` counts the texts of the escalation. A text that waits for its escalation is `pending`, not
    `done`.
    """

    name: str
    input: str | None  # another step's name; None reads the documents
    spec: Spec
    done: int
    failed: int
    skipped: int
    blocked: int
    truncated: int
    pending: int
    prior: int
    tokens_in: int
    tokens_out: int
    escalated: StepStatus | None = None

    @property
    def texts(self) -> int:
        return self.done + self.failed + self.skipped + self.pending


def with_escalation(step: StepStatus, escalated: StepStatus, rescued: int | None = None) -> StepStatus:
    """Return a step with its escalation. Texts that the escalation still has to compute count as pending.

    Of the texts that were escalated anew, only those beyond the number of new texts had a result before. `rescued`
    of the texts on which the step failed were done by the escalation; None if it does not compute these.
    """
    waiting, new = escalated.pending, escalated.texts - escalated.prior
    anew = max(0, new - (step.texts - step.prior))
    failures = Failures(step.failed) if rescued is None else Failures.of(step.failed, rescued, waiting)
    return replace(
        step,
        done=step.done + failures.rescued - (waiting - failures.waiting),
        failed=failures.final,
        pending=step.pending + waiting,
        prior=step.prior - anew,
        escalated=replace(escalated, blocked=0),
    )
