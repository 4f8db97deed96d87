"""Doubts: conditions on the results that a better model computes again.

A doubt names flags, and bounds of numbers that outcomes have (`storage.steps.doubt_conditions` has its SQL).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from storage.core.flags import DOUBTS, Flagged, doubtful_ones, named
from storage.core.outcomes import DOUBTFUL
from storage.errors import DoubtInvalid, FlagUnknown

# The numbers that may have a bound, with their least and greatest value. Each is a column of outcomes.
NUMBERS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"confidence": (0.0, 1.0), "mean_logprob": (-math.inf, 0.0), "least_logprob": (-math.inf, 0.0)}
)
_BOUND = re.compile(r"\s*([a-z_]+)\s*([<>])\s*(\S+)\s*")


@dataclass(frozen=True, order=True)
class Bound:
    """A number of a result is below a value, or above it. A result without the number does not meet it."""

    number: str
    is_below: bool
    value: float

    def __str__(self) -> str:
        return f"{self.number}{'<' if self.is_below else '>'}{self.value:g}"

    def holds(self, given: float | None) -> bool:
        """Return True if a result with this number meets the bound."""
        return given is not None and (given < self.value if self.is_below else given > self.value)


@dataclass(frozen=True)
class Doubt:
    """A condition that a result meets if it carries one of these flags, or meets one of these bounds."""

    flags: frozenset[str] = DOUBTFUL
    bounds: tuple[Bound, ...] = ()

    def __str__(self) -> str:
        flags = ["any doubtful flag"] if self.flags == DOUBTFUL else sorted(self.flags)
        return " or ".join([*flags, *map(str, self.bounds)])

    @classmethod
    def parse(cls, parts: Iterable[str]) -> Doubt:
        """Return the doubt in flags and bounds such as `confidence<0.4`. Raises DoubtInvalid."""
        flags: list[str] = []
        bounds: set[Bound] = set()
        for part in (one.strip() for one in parts):
            if "<" in part or ">" in part:
                bounds.add(_bound(part))
            elif part in NUMBERS:
                raise DoubtInvalid(f"{part!r} has no bound; write for example confidence<0.4")
            else:
                flags.append(part)
        try:
            return cls(named(flags), tuple(sorted(bounds)))
        except FlagUnknown as error:
            raise DoubtInvalid(
                f"{error}; {DOUBTS} stands for every doubtful flag, and a bound is written as confidence<0.4"
            ) from error

    @classmethod
    def stored(cls, value: Mapping[str, Any]) -> Doubt:
        """Return the doubt in a value of `to_json`."""
        return cls(named(value["flags"]), tuple(Bound(*bound) for bound in value["bounds"]))

    def to_json(self) -> dict[str, Any]:
        """Return the doubt as it is stored. The set of all doubtful flags includes those of later releases."""
        flags = [DOUBTS] if self.flags == DOUBTFUL else sorted(self.flags)
        return {"flags": flags, "bounds": [[one.number, one.is_below, one.value] for one in self.bounds]}

    @property
    def flagged(self) -> Flagged:
        """The condition on flags."""
        return Flagged(self.flags)

    def holds(self, row: Any) -> bool:
        """Return True if a row with the flags and numbers of an outcome is doubted."""
        if self.flags and self.flagged.holds(row.flags):
            return True
        return any(bound.holds(getattr(row, bound.number)) for bound in self.bounds)


def is_better(second: Any, first: Any) -> bool:
    """Return True if `second`, the outcome of the better model, is the document's result, and not `first`.

    The second outcome must be done, and have no more doubtful flags than the first.
    """
    return second.status == "done" and doubtful_ones(second.flags) <= doubtful_ones(first.flags)


def _bound(part: str) -> Bound:
    found = _BOUND.fullmatch(part)
    if found is None or found[1] not in NUMBERS:
        raise DoubtInvalid(f"{part!r} is no bound of {', '.join(NUMBERS)}; write for example confidence<0.4")
    least, most = NUMBERS[found[1]]
    try:
        value = float(found[3])
    except ValueError as error:
        raise DoubtInvalid(f"{part!r} has no number; write for example confidence<0.4") from error
    if not (math.isfinite(value) and least <= value <= most):
        within = f"at most {most:g}" if least == -math.inf else f"from {least:g} to {most:g}"
        raise DoubtInvalid(f"{part!r}: {found[1]} is {within}")
    return Bound(found[1], found[2] == "<", value)
