"""Flags of results: their names, and conditions on them (`storage.steps.flag_conditions` has their SQL).

A doubtful flag says that an output is to be doubted (`storage.core.outcomes.DOUBTFUL`); any other is a remark. What
raises a new flag adds its name to one of the two sets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from storage.core.outcomes import DOUBTFUL
from storage.errors import FlagUnknown

REMARKS = frozenset(
    {
        *("reduced", "windowed", "already_in_target", "attachments_left_out", "value_left_out", "recognised"),
        *("nul_replaced", "surrogate_replaced", "output_nul_replaced", "output_surrogate_replaced"),
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


@dataclass(frozen=True)
class Flagged:
    """A condition on results: they carry one of these flags, or with `lacking` none of them."""

    names: frozenset[str] = DOUBTFUL
    lacking: bool = False

    def __str__(self) -> str:
        names = DOUBTS if self.names == DOUBTFUL else ",".join(sorted(self.names))
        return f"{'unflagged' if self.lacking else 'flagged'} {names}"

    @classmethod
    def stored(cls, value: Mapping[str, Any] | None) -> Flagged | None:
        """Return the condition in a value of `to_json`, or None."""
        return None if value is None else cls(named(value["names"]), value["lacking"])

    def to_json(self) -> dict[str, Any]:
        """Return the condition as it is stored; all doubtful flags stay all that there will be."""
        return {"names": [DOUBTS] if self.names == DOUBTFUL else sorted(self.names), "lacking": self.lacking}

    def holds(self, flags: Collection[str]) -> bool:
        """Return True if a result with these flags meets the condition."""
        written = [f'"{flag}"' for flag in flags]
        carried = any(form in one for form in self.forms() for one in written)
        return carried is not self.lacking

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
