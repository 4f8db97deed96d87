"""Methods of comparing documents, as they are stored beside the clusters that they found.

Texts are compared by their sets of shingles: overlapping runs of words or characters (Broder 1997).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from docmill.features.near_duplicates import LIBRARY

Unit: TypeAlias = Literal["words", "characters"]
UNITS: tuple[str, ...] = get_args(Unit)
_WORD = re.compile(r"\w+")
Advanced: TypeAlias = Callable[[str, int, int], None]  # the phase, its steps that are done, and all its steps


@dataclass(frozen=True)
class Shingling:
    """Runs of `size` words or characters. Case, punctuation and the width of white space make no difference."""

    unit: Unit = "words"
    size: int = 3

    def __str__(self) -> str:
        return f"runs of {self.size} {self.unit if self.size > 1 else self.unit[:-1]}"

    def of(self, text: str) -> set[str]:
        """Return the shingles of a text. A shorter text is its only shingle; a text without any words has none."""
        if self.unit == "words":
            words = _WORD.findall(text.casefold())
            if len(words) <= self.size:
                return {" ".join(words)} if words else set()
            return {" ".join(run) for run in zip(*(words[start:] for start in range(self.size)), strict=False)}
        plain = " ".join(text.casefold().split())
        if len(plain) <= self.size:
            return {plain} if plain else set()
        return {plain[start : start + self.size] for start in range(len(plain) - self.size + 1)}


def jaccard(first: Set[str], second: Set[str]) -> float:
    """Return the share of the members of two sets that both have, 0 to 1; 0 if a set is empty."""
    common = len(first & second)
    return common / (len(first) + len(second) - common) if common else 0.0


@dataclass(frozen=True)
class ByText:
    """Two texts are near duplicates if the Jaccard similarity of their sets of shingles is at least `threshold`.

    `seed` is the seed of the MinHash signatures, which propose the pairs to compare.
    """

    threshold: float = 0.8
    shingling: Shingling = Shingling()
    seed: int = 1

    by: ClassVar[Literal["text"]] = "text"

    def __str__(self) -> str:
        return f"Jaccard similarity of {self.shingling} at least {self.threshold:g}"

    def to_json(self) -> dict[str, Any]:
        """Return the options as they are stored."""
        shingling = {"unit": self.shingling.unit, "size": self.shingling.size}
        return {"by": self.by, "threshold": self.threshold, **shingling, "seed": self.seed}


@dataclass(frozen=True)
class ByVectors:
    """Two documents are near duplicates if the cosine of their vectors under a spec is at least `threshold`.

    The vectors are those of `job`; if it is gone or has another spec, of the latest job with the spec.
    """

    threshold: float
    spec_id: int
    job: int | None = None

    by: ClassVar[Literal["vectors"]] = "vectors"

    def __str__(self) -> str:
        return f"cosine of vectors at least {self.threshold:g}"

    def to_json(self) -> dict[str, Any]:
        """Return the options as they are stored."""
        return {"by": self.by, "threshold": self.threshold, "spec_id": self.spec_id, "job": self.job}


Method: TypeAlias = ByText | ByVectors


def stored(value: Mapping[str, Any]) -> Method:
    """Return the method in a value of `to_json`."""
    if value["by"] == ByVectors.by:
        return ByVectors(value["threshold"], value["spec_id"], value["job"])
    return ByText(value["threshold"], Shingling(value["unit"], value["size"]), value["seed"])


def require_library() -> None:
    """Raise StorageError if the library for signatures is not installed."""
    LIBRARY.require("A search for near duplicates")
