"""Flags of results: their names, and conditions on results (`storage.steps.flag_conditions` has their SQL).

A doubtful flag says that an output is to be doubted (`storage.core.outcomes.DOUBTFUL`); any other is a remark. What
raises a new flag adds its name to one of the two sets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from docmill.storage.core.normalize import ASSUMED_CP1252
from docmill.storage.core.number_bounds import RISK, Bound, is_bound
from docmill.storage.core.outcomes import DOUBTFUL
from docmill.storage.errors import BoundInvalid, FlagUnknown

REMARKS = frozenset(
    {
        *("reduced", "windowed", "already_in_target", "attachments_left_out", "value_left_out", "recognised"),
        *("nul_replaced", "surrogate_replaced", "output_nul_replaced", "output_surrogate_replaced"),
        ASSUMED_CP1252,  # `assumed_cp1252@17`: the offset of the first byte
    }
)
LANGUAGE = "language"  # `language:fr`: a value follows
INVALID = "invalid_"  # `invalid_utf8@17`: an encoding follows, and the offset of the first bad byte
DOUBTS = "doubtful"  # stands for all doubtful flags


def known() -> list[str]:
    """Return the names of all flags, the doubtful ones first."""
    return [*sorted(DOUBTFUL), *sorted({*REMARKS, LANGUAGE, f"{INVALID}utf8"})]


def named(names: Iterable[str]) -> frozenset[str]:
    """Return the flags that names stand for. Raises FlagUnknown."""
    found: set[str] = set()
    for name in names:
        if name == DOUBTS:
            found |= DOUBTFUL
        elif name in DOUBTFUL or name in REMARKS or _begins(name):
            found.add(name)
        else:
            raise FlagUnknown(f"no flag is called {name!r}; there are {', '.join(known())}")
    return frozenset(found)


def name_of(flag: str) -> str:
    """Return a flag without the offset in it: `invalid_utf8` for `invalid_utf8@17`."""
    return flag.partition("@")[0]


def ordered(by_flag: Mapping[str, int]) -> dict[str, int]:
    """Return numbers by flag: doubtful flags first, frequent ones before rare ones."""
    return dict(sorted(by_flag.items(), key=lambda one: (one[0] not in DOUBTFUL, -one[1], one[0])))


class HasFlags(Protocol):
    """A row with the flags of an outcome, and with the numbers that a condition compares."""

    @property
    def flags(self) -> Collection[str]: ...


@dataclass(frozen=True)
class Flagged:
    """A condition on results: they carry one of these flags or meet one of these bounds; with `lacking`, none.

    A result without the number of a bound does not meet the bound.
    """

    names: frozenset[str] = DOUBTFUL
    lacking: bool = False
    bounds: tuple[Bound, ...] = ()

    def __str__(self) -> str:
        return f"{'unflagged' if self.lacking else 'flagged'} {','.join(self.parts)}"

    @property
    def parts(self) -> list[str]:
        """The flags and bounds, as `parse` reads them."""
        return [*([DOUBTS] if self.names == DOUBTFUL else sorted(self.names)), *map(str, self.bounds)]

    @classmethod
    def parse(cls, parts: Iterable[str], *, lacking: bool = False) -> Flagged:
        """Return the condition in flags and bounds such as `confidence<0.4`. Raises FlagUnknown and BoundInvalid."""
        names: list[str] = []
        bounds: set[Bound] = set()
        for part in (one.strip() for one in parts):
            if is_bound(part):
                bounds.add(_stored_number(part))
            else:
                names.append(part)
        return cls(named(names), lacking, tuple(sorted(bounds)))

    @classmethod
    def stored(cls, value: Mapping[str, Any] | None) -> Flagged | None:
        """Return the condition in a value of `to_json`, or None."""
        return None if value is None else cls.parse(value["names"], lacking=value["lacking"])

    def to_json(self) -> dict[str, Any]:
        """Return the condition as it is stored; all doubtful flags stay all that there will be.

        Bounds stand among the names, so that a release without bounds refuses the condition, and ignores no part.
        """
        return {"names": self.parts, "lacking": self.lacking}

    def holds(self, row: HasFlags) -> bool:
        """Return True if a row with the flags and numbers of a result meets the condition."""
        met = self.carried(row.flags) or any(bound.holds(getattr(row, bound.number)) for bound in self.bounds)
        return met is not self.lacking

    def carried(self, flags: Collection[str]) -> bool:
        """Return True if one of the condition's flags is among these."""
        written = [f'"{flag}"' for flag in flags]
        return any(form in one for form in self.forms() for one in written)

    def forms(self) -> list[str]:
        """Return the flags as they stand in JSON, as far as they are known."""
        exact = [f'"{name}"' for name in sorted(self.names)]
        return exact + [f'"{name}{mark}' for name in sorted(self.names) for mark in ":@" if _begins(name)]


def doubtful(flags: Collection[str]) -> bool:
    """Return True if one of the flags is doubtful."""
    return not DOUBTFUL.isdisjoint(flags)


def doubtful_ones(flags: Collection[str]) -> int:
    """Return the number of doubtful flags, each once."""
    return len(DOUBTFUL.intersection(flags))


def _begins(name: str) -> bool:
    """Return True for the name of a flag that has a value in it, or the flag itself."""
    return name.partition(":")[0] == LANGUAGE or name.startswith(INVALID)


def _stored_number(part: str) -> Bound:
    """Return a bound of a number that is stored with each result. Raises BoundInvalid."""
    bound = Bound.parse(part)
    if bound.number == RISK:
        advice = f"docmill results JOB --risk-above {bound.value:g} does"
        raise BoundInvalid(f"{part!r}: a risk is not stored with results, so this cannot select by it; {advice}")
    return bound
