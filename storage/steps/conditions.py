"""Conditions on results (flags, bounds of numbers such as `confidence<0.4`, and doubts), and filters of documents.

A doubtful flag says that an output may be wrong (`storage.core.specs.DOUBTFUL`); any other flag is a remark. The name
of a new flag goes into one of the two sets. `storage.steps.choosing` has the conditions in SQL.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from docmill.storage.core.normalize import ASSUMED_CP1252
from docmill.storage.core.specs import DOUBTFUL, Outcome, Status, StoredOutcome
from docmill.storage.errors import NotFound, StorageError
from docmill.storage.features import features
from docmill.storage.steps.risk import FittedRisk, logit

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, FromClause

    from docmill.storage.core.database import Database
    from docmill.storage.core.transaction import Transaction

OUTPUT_REMARKS = frozenset(
    {"reduced", "windowed", "already_in_target", "output_nul_replaced", "output_surrogate_replaced"}
)
REMARKS = OUTPUT_REMARKS | {  # and the remarks of readers
    *("attachments_left_out", "value_left_out", "recognized", "nul_replaced", "surrogate_replaced"),
    ASSUMED_CP1252,  # `assumed_cp1252@17`: the offset of the first byte
}
LANGUAGE = "language"  # `language:fr`: a value follows
INVALID = "invalid_"  # `invalid_utf8@17`: an encoding follows, and the offset of the first bad byte
DOUBTS = "doubtful"  # stands for all doubtful flags
FAILED = "failed"  # stands for texts on which the first model failed
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


def list_flags() -> list[str]:
    """Return the names of all flags, the doubtful ones first."""
    return [*sorted(DOUBTFUL), *sorted({*REMARKS, LANGUAGE, f"{INVALID}utf8"})]


def parse_flags(names: Iterable[str]) -> frozenset[str]:
    """Return the flags that names stand for. Raises StorageError."""
    named = [*names]
    for name in named:
        if name not in {DOUBTS, *DOUBTFUL, *REMARKS} and not _begins(name):
            raise StorageError(f"no flag is called {name!r}; there are {', '.join(list_flags())}")
    return _expand(named)


def _expand(names: Iterable[str]) -> frozenset[str]:
    """Return the flags that names stand for, unchecked: a stored condition may name a flag of another release."""
    flags = {*names}
    doubtful = DOUBTFUL if DOUBTS in flags else frozenset[str]()
    return doubtful | {flag.lower() for flag in flags - {DOUBTS}}  # SQLite ignores the case of a language


def flag_name(flag: str) -> str:
    """Return a flag without the offset in it: `invalid_utf8` for `invalid_utf8@17`."""
    return flag.partition("@")[0]


def order_flags(by_flag: Mapping[str, int]) -> dict[str, int]:
    """Return numbers by flag: doubtful flags first, frequent ones before rare ones."""
    return dict(sorted(by_flag.items(), key=lambda item: (item[0] not in DOUBTFUL, -item[1], item[0])))


def is_doubtful(flags: Collection[str]) -> bool:
    """Return True if one of the flags is doubtful."""
    return not DOUBTFUL.isdisjoint(flags)


def count_doubtful_flags(flags: Collection[str]) -> int:
    """Return the number of doubtful flags, each once."""
    return len(DOUBTFUL.intersection(flags))


def _begins(name: str) -> bool:
    """Return True for the name of a flag that has a value in it, or the flag itself."""
    return name.partition(":")[0] == LANGUAGE or name.startswith(INVALID) or name == ASSUMED_CP1252


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
        """Return the bound in a text such as `confidence<0.4`. Raises StorageError."""
        if part in NUMBERS:
            example = "risk>0.3" if part == RISK else "confidence<0.4"
            raise StorageError(f"{part!r} has no bound; write for example {example}")
        match = _BOUND.fullmatch(part)
        if match is None or match[1] not in NUMBERS:
            raise StorageError(f"{part!r} is no bound of {', '.join(NUMBERS)}; write for example confidence<0.4")
        least, most = NUMBERS[match[1]]
        try:
            value = float(match[3])
        except ValueError as error:
            raise StorageError(f"{part!r} has no number; write for example confidence<0.4") from error
        if not (math.isfinite(value) and least <= value <= most):
            within = f"at most {most:g}" if least == -math.inf else f"from {least:g} to {most:g}"
            raise StorageError(f"{part!r}: {match[1]} is {within}")
        if (match[1], match[2]) == (RISK, "<"):
            raise StorageError(f"{part!r} asks for the outputs that are least at risk; write for example risk>0.3")
        return cls(match[1], match[2] == "<", value)

    @property
    def limit(self) -> float:
        """The value in the scale that is compared: that of a risk in log-odds, as SQL compares them, too."""
        return logit(self.value) if self.number == RISK else self.value

    def holds(self, number: float | None) -> bool:
        """Return True if a result with this number, or with these log-odds of the risk, meets the bound."""
        return number is not None and (number < self.limit if self.is_below else number > self.limit)


def _split(parts: Sequence[str]) -> tuple[list[str], tuple[Bound, ...]]:
    """Return the names among the parts of a condition, and the bounds in its other parts. Raises StorageError."""
    bounds = [part for part in parts if "<" in part or ">" in part or part in NUMBERS]
    names = [part for part in parts if part not in bounds]
    return names, tuple(sorted({*map(Bound.parse, bounds)}))


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
        """Return the condition in flags and bounds such as `confidence<0.4`. Raises StorageError."""
        names, bounds = _split([part.strip() for part in parts])
        for bound in bounds:
            if bound.number == RISK:
                raise StorageError(
                    f"{str(bound)!r}: a risk is not stored with results, so this cannot select by it; "
                    f"docmill results JOB --risk-above {bound.value:g} does"
                )
        return cls(parse_flags(names), lacking, bounds)

    @classmethod
    def stored(cls, value: Mapping[str, Any] | None) -> Flagged | None:
        """Return the condition in a value of `to_json`, or None."""
        if value is None:
            return None
        names, bounds = _split(value["names"])
        return cls(_expand(names), value["lacking"], bounds)

    def to_json(self) -> dict[str, Any]:
        """Return the condition as it is stored; all doubtful flags stay all that there will be.

        Bounds stand among the names, so that a release without bounds refuses the condition, and ignores no part.
        """
        return {"names": self.parts, "lacking": self.lacking}

    def holds(self, row: StoredOutcome | Outcome) -> bool:
        """Return True if a row with the flags and numbers of a result meets the condition."""
        met = self.carried(row.flags) or any(bound.holds(getattr(row, bound.number)) for bound in self.bounds)
        return met is not self.lacking

    def carried(self, flags: Collection[str]) -> bool:
        """Return True if one of the condition's flags is among these."""
        written = [f'"{flag}"' for flag in flags]
        return any(form in flag for form in self.forms() for flag in written)

    def forms(self) -> list[str]:
        """Return the flags as they stand in JSON, as far as they are known."""
        exact = [f'"{name}"' for name in sorted(self.names)]
        return exact + [f'"{name}{mark}' for name in sorted(self.names) for mark in ":@" if _begins(name)]


@dataclass(frozen=True)
class Doubt:
    """A condition that a result meets if it carries one of these flags, or meets one of these bounds.

    With `failed`, a failure meets it, too. `risk` computes the risk, if there is a bound of it. A job keeps the
    version that it began with; doubts with different versions are equal.
    """

    flags: frozenset[str] = DOUBTFUL
    bounds: tuple[Bound, ...] = ()
    failed: bool = False
    risk: FittedRisk | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return " or ".join(part if part != DOUBTS else "any doubtful flag" for part in self.parts)

    @property
    def parts(self) -> list[str]:
        """The flags and bounds, as `parse` reads them. The set of all doubtful flags stays all that there will be."""
        return [*Flagged(self.flags, bounds=self.bounds).parts, *([FAILED] if self.failed else [])]

    @classmethod
    def parse(cls, parts: Iterable[str]) -> Doubt:
        """Return the doubt in flags and bounds such as `confidence<0.4`. Raises StorageError."""
        names, bounds = _split([part.strip() for part in parts])
        try:
            flags = parse_flags(name for name in names if name != FAILED)
        except StorageError as error:
            raise StorageError(
                f"{error}; {DOUBTS} stands for every doubtful flag, {FAILED} for texts that failed, and a bound is "
                "written as confidence<0.4"
            ) from error
        return cls(flags, bounds, FAILED in names)

    @classmethod
    def stored(cls, value: Mapping[str, Any]) -> Doubt:
        """Return the doubt in a value of `to_json`."""
        names, bounds = _split(value["parts"])
        flags = _expand(name for name in names if name != FAILED)
        risk = value.get("risk")
        return cls(flags, bounds, FAILED in names, None if risk is None else FittedRisk.stored(risk))

    def to_json(self) -> dict[str, Any]:
        """Return the doubt as it is stored."""
        return {"parts": self.parts} | ({} if self.risk is None else {"risk": self.risk.to_json()})

    @property
    def flagged(self) -> Flagged:
        """The condition on flags."""
        return Flagged(self.flags)

    @property
    def needs_risk(self) -> bool:
        """True if one of the bounds is of the risk."""
        return any(bound.number == RISK for bound in self.bounds)


def is_better(second: StoredOutcome | Outcome, first: StoredOutcome | Outcome) -> bool:
    """Return True if `second`, the outcome of the better model, is the document's result, and not `first`.

    The second outcome must be done. Unless the first one failed, it must have no more doubtful flags.
    """
    if second.status != Status.DONE:
        return False
    return first.status == Status.FAILED or count_doubtful_flags(second.flags) <= count_doubtful_flags(first.flags)


# Filters of documents: with `--leave-out KIND` a step leaves out documents of a kind. Features bring the kinds. A
# filter changes only once a source was read to its end. So a step with one plans its documents then.

Hear = Callable[[str], None]


@dataclass(frozen=True)
class DocumentFilter:
    """The documents that a step may leave out.

    `leaves_out` returns the condition for a table of documents, with the column `id`. `update` looks at a corpus
    whose source was read, tells a listener of its progress, and returns a sentence for the user, or None. `explain`
    returns why a document is left out, behind "It is", and None for other documents; `reason` says so of any
    document. `require` raises StorageError if the filter cannot work here.
    """

    reason: str
    leaves_out: Callable[[FromClause], ColumnElement[bool]]
    update: Callable[[Database, int, Hear], str | None]
    explain: Callable[[Transaction, int], str | None]
    require: Callable[[], None] = lambda: None


def filter_names() -> tuple[str, ...]:
    """Return the names of all filters."""
    return tuple(name for feature in features() for name in feature.filters)


@cache
def find_filter(name: str) -> DocumentFilter:
    """Return a filter by its name. Raises NotFound."""
    for feature in features():
        if name in feature.filters:
            return feature.load(feature.filters[name], DocumentFilter)
    raise NotFound(f"no feature leaves out {name!r}; there are {', '.join(filter_names()) or 'no such kinds'}")
