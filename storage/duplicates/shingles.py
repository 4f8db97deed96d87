"""Sets of shingles: the overlapping runs of words or characters of a text (Broder 1997)."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Unit: TypeAlias = Literal["words", "characters"]
UNITS: tuple[str, ...] = get_args(Unit)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Shingling:
    """Runs of `size` words or characters. Case, punctuation and the width of white space make no difference."""

    unit: Unit = "words"
    size: int = 3

    def __str__(self) -> str:
        return f"runs of {self.size} {self.unit if self.size > 1 else self.unit[:-1]}"

    def of(self, text: str) -> set[str]:
        """Return the shingles of a text; of a shorter one the whole, of one without words or characters none."""
        if self.unit == "words":
            words = _WORD.findall(text.casefold())
            if len(words) <= self.size:
                return {" ".join(words)} if words else set()
            return {" ".join(run) for run in zip(*(words[start:] for start in range(self.size)), strict=False)}
        plain = " ".join(text.casefold().split())
        if len(plain) <= self.size:
            return {plain} if plain else set()
        return {plain[start : start + self.size] for start in range(len(plain) - self.size + 1)}


def jaccard(one: Set[str], other: Set[str]) -> float:
    """Return the number of common members over that of all members, 0 to 1; 0 if a set is empty."""
    common = len(one & other)
    return common / (len(one) + len(other) - common) if common else 0.0
