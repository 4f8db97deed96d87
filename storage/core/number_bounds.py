"""Bounds of the numbers that a result has, such as `confidence<0.4`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from docmill.storage.core.risk import log_odds
from docmill.storage.errors import BoundInvalid

RISK = "risk"
# The numbers that may have a bound, with their least and greatest value. Each but the risk is a column of outcomes.
NUMBERS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "confidence": (0.0, 1.0),
        "mean_logprob": (-math.inf, 0.0),
        "least_logprob": (-math.inf, 0.0),
        RISK: (0.0, 1.0),
    }
)
_BOUND = re.compile(r"\s*([a-z_]+)\s*([<>])\s*(\S+)\s*")


@dataclass(frozen=True, order=True)
class Bound:
    """A number of a result is below a value, or above it. A result without the number does not meet it."""

    number: str
    is_below: bool
    value: float

    def __str__(self) -> str:
        short = f"{self.value:g}"
        return f"{self.number}{'<' if self.is_below else '>'}{short if float(short) == self.value else self.value}"

    @classmethod
    def parse(cls, part: str) -> Bound:
        """Return the bound in a text such as `confidence<0.4`. Raises BoundInvalid."""
        if part in NUMBERS:
            example = "risk>0.3" if part == RISK else "confidence<0.4"
            raise BoundInvalid(f"{part!r} has no bound; write for example {example}")
        found = _BOUND.fullmatch(part)
        if found is None or found[1] not in NUMBERS:
            raise BoundInvalid(f"{part!r} is no bound of {', '.join(NUMBERS)}; write for example confidence<0.4")
        least, most = NUMBERS[found[1]]
        try:
            value = float(found[3])
        except ValueError as error:
            raise BoundInvalid(f"{part!r} has no number; write for example confidence<0.4") from error
        if not (math.isfinite(value) and least <= value <= most):
            within = f"at most {most:g}" if least == -math.inf else f"from {least:g} to {most:g}"
            raise BoundInvalid(f"{part!r}: {found[1]} is {within}")
        if (found[1], found[2]) == (RISK, "<"):
            raise BoundInvalid(f"{part!r} asks for the outputs that are least at risk; write for example risk>0.3")
        return cls(found[1], found[2] == "<", value)

    @property
    def limit(self) -> float:
        """The value in the scale that is compared: that of a risk in log-odds, as SQL compares them, too."""
        return log_odds(self.value) if self.number == RISK else self.value

    def holds(self, given: float | None) -> bool:
        """Return True if a result with this number, or with these log-odds of the risk, meets the bound."""
        return given is not None and (given < self.limit if self.is_below else given > self.limit)


def is_bound(part: str) -> bool:
    """Return True for a text that is meant as a bound, be it a valid one or not."""
    return "<" in part or ">" in part or part in NUMBERS
