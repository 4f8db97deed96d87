"""An outcome: what became of one content under one spec."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

TRUNCATED = "output_truncated"  # the flag of an output that stopped at the model's limit


class Status(StrEnum):
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


class Reason(StrEnum):
    """Whose fault a failure is, and so what a retry can hope for."""

    TRANSIENT = "transient"
    DOCUMENT = "document"
    MODEL = "model"


@dataclass(frozen=True)
class Outcome:
    """One row of the outcome table, before it has a spec and a runtime.

    ``vector`` holds little-endian float32 bytes: ``dim`` values, or ``windows × dim`` row by row, in which
    case ``data`` has ``{"dim": …, "windows": [[start, end], …]}`` in characters of the text. ``reason`` is a
    sentence for people, without the document's text.
    """

    content_id: int
    status: Status
    text: str | None = None
    vector: bytes | None = None
    data: dict[str, Any] | None = None
    reason: str | None = None
    reason_class: Reason | None = None
    flags: tuple[str, ...] = ()
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True)
class Known:
    """What is known of an outcome that is stored already."""

    status: str
    truncated: bool


@dataclass(frozen=True)
class Tally:
    """How many outcomes there are of each status; `truncated` are some of the done ones."""

    done: int = 0
    failed: int = 0
    skipped: int = 0
    truncated: int = 0

    @classmethod
    def of(cls, outcomes: Iterable[Known]) -> Tally:
        known = list(outcomes)
        statuses = [outcome.status for outcome in known]
        return cls(
            done=statuses.count(Status.DONE),
            failed=statuses.count(Status.FAILED),
            skipped=statuses.count(Status.SKIPPED),
            truncated=sum(outcome.truncated for outcome in known),
        )
