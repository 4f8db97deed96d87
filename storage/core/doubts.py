"""Doubts: conditions on the results that a better model computes again.

A doubt names flags, failures, and bounds of numbers that outcomes have (`storage.steps.doubt_conditions` has its
SQL). The risk is such a number, too: a fitted model computes it from the outcome.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from docmill.storage.core.flags import DOUBTS, Flagged, doubtful_ones, named
from docmill.storage.core.number_bounds import RISK, Bound, is_bound
from docmill.storage.core.outcomes import DOUBTFUL, Status
from docmill.storage.core.risk import COLUMNS as RISK_COLUMNS
from docmill.storage.core.risk import FittedRisk
from docmill.storage.errors import BoundInvalid, DoubtInvalid, FlagUnknown

FAILED = "failed"  # stands for texts on which the first model failed


class Judged(Protocol):
    """A row with the status and the flags of an outcome, and perhaps with its numbers."""

    @property
    def status(self) -> str: ...
    @property
    def flags(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Doubt:
    """A condition that a result meets if it carries one of these flags, or meets one of these bounds.

    With `failed`, a failure meets it, too. `risk` computes the risk, if there is a bound of it. A job keeps the one
    that it began with; two doubts are equal whatever their versions are.
    """

    flags: frozenset[str] = DOUBTFUL
    bounds: tuple[Bound, ...] = ()
    failed: bool = False
    risk: FittedRisk | None = field(default=None, compare=False)

    def __str__(self) -> str:
        flags = ["any doubtful flag"] if self.flags == DOUBTFUL else sorted(self.flags)
        return " or ".join([*flags, *map(str, self.bounds), *([FAILED] if self.failed else [])])

    @classmethod
    def parse(cls, parts: Iterable[str]) -> Doubt:
        """Return the doubt in flags and bounds such as `confidence<0.4`. Raises DoubtInvalid."""
        flags: list[str] = []
        bounds: set[Bound] = set()
        failed = False
        for part in (one.strip() for one in parts):
            if part == FAILED:
                failed = True
            elif is_bound(part):
                try:
                    bounds.add(Bound.parse(part))
                except BoundInvalid as error:
                    raise DoubtInvalid(str(error)) from error
            else:
                flags.append(part)
        try:
            return cls(named(flags), tuple(sorted(bounds)), failed)
        except FlagUnknown as error:
            raise DoubtInvalid(
                f"{error}; {DOUBTS} stands for every doubtful flag, {FAILED} for texts that failed, and a bound is "
                "written as confidence<0.4"
            ) from error

    @classmethod
    def stored(cls, value: Mapping[str, Any]) -> Doubt:
        """Return the doubt in a value of `to_json`."""
        risk = value.get("risk")
        return cls(
            named(value["flags"]),
            tuple(Bound(*bound) for bound in value["bounds"]),
            value.get("failed", False),
            None if risk is None else FittedRisk.stored(risk),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the doubt as it is stored. The set of all doubtful flags includes those of later releases."""
        flags = [DOUBTS] if self.flags == DOUBTFUL else sorted(self.flags)
        stored: dict[str, Any] = {
            "flags": flags,
            "bounds": [[one.number, one.is_below, one.value] for one in self.bounds],
        }
        if self.failed:
            stored["failed"] = True
        if self.risk is not None:
            stored["risk"] = self.risk.to_json()
        return stored

    @property
    def flagged(self) -> Flagged:
        """The condition on flags."""
        return Flagged(self.flags)

    @property
    def needs_risk(self) -> bool:
        """True if one of the bounds is of the risk."""
        return any(bound.number == RISK for bound in self.bounds)

    def by(self, risk: FittedRisk) -> Doubt:
        """Return the doubt with a fitted risk."""
        return replace(self, risk=risk)

    def holds(self, row: Judged) -> bool:
        """Return True if a row with the status, flags and numbers of an outcome is doubted."""
        if row.status != Status.DONE:
            return self.failed and row.status == Status.FAILED
        if self.flags and self.flagged.carried(row.flags):
            return True
        return any(bound.holds(self._number(bound.number, row)) for bound in self.bounds)

    def _number(self, name: str, row: Judged) -> float | None:
        """Return a number of an outcome; for the risk its log-odds."""
        if name != RISK:
            number: float | None = getattr(row, name)
            return number
        assert self.risk is not None, "a job resolves the risk when it is opened"
        return self.risk.model.log_odds({name: getattr(row, name) for name in RISK_COLUMNS})


def is_better(second: Judged, first: Judged) -> bool:
    """Return True if `second`, the outcome of the better model, is the document's result, and not `first`.

    The second outcome must be done. Unless the first one failed, it must have no more doubtful flags.
    """
    if second.status != Status.DONE:
        return False
    return first.status == Status.FAILED or doubtful_ones(second.flags) <= doubtful_ones(first.flags)
