"""Methods of comparing documents, as they are stored beside the clusters that they found.

Texts are compared by their sets of shingles: overlapping runs of words or characters (Broder 1997).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

from docmill.features.near_duplicates import LIBRARY

Unit: TypeAlias = Literal["words", "characters"]
UNITS: tuple[str, ...] = get_args(Unit)
_WORD = re.compile(r"\w+")
Advanced: TypeAlias = Callable[[str, int, int], None]  # the phase, its steps that are done, and all its steps


def jaccard(first: Set[str], second: Set[str]) -> float:
    """Return the share of the members of two sets that both have, 0 to 1; 0 if a set is empty."""
    common = len(first & second)
    return common / (len(first) + len(second) - common) if common else 0.0


@dataclass(frozen=True)
class ByText:
    """Two texts are near duplicates if the Jaccard similarity of their sets of shingles is at least `threshold`.

    A shingle is a run of `size` words or characters. `seed` is the seed of the MinHash signatures, which propose the
    pairs to compare.
    """

    threshold: float = 0.8
    unit: Unit = "words"
    size: int = 3
    seed: int = 1

    def __str__(self) -> str:
        unit = self.unit if self.size > 1 else self.unit[:-1]
        return f"Jaccard similarity of runs of {self.size} {unit} at least {self.threshold:g}"

    def shingles(self, text: str) -> set[str]:
        """Return the shingles of a text. Case, punctuation and the width of white space make no difference.

        A shorter text is its only shingle; a text without any words has none.
        """
        if self.unit == "words":
            words = _WORD.findall(text.casefold())
            if len(words) <= self.size:
                return {" ".join(words)} if words else set()
            return {" ".join(run) for run in zip(*(words[start:] for start in range(self.size)), strict=False)}
        plain = " ".join(text.casefold().split())
        if len(plain) <= self.size:
            return {plain} if plain else set()
        return {plain[start : start + self.size] for start in range(len(plain) - self.size + 1)}


@dataclass(frozen=True)
class ByVectors:
    """Two documents are near duplicates if the cosine of their vectors under a spec is at least `threshold`.

    The vectors come from `job`, or from the latest job with the spec if `job` was removed or has another spec.
    """

    threshold: float
    spec_id: int
    job: int | None = None

    def __str__(self) -> str:
        return f"cosine of vectors at least {self.threshold:g}"


Method: TypeAlias = ByText | ByVectors
_BY: Mapping[str, type[Method]] = {"text": ByText, "vectors": ByVectors}


def to_json(method: Method) -> dict[str, Any]:
    """Return a method as it is stored."""
    return {"by": "text" if isinstance(method, ByText) else "vectors", **asdict(method)}


def from_json(value: Mapping[str, Any]) -> Method:
    """Return the method in a value of `to_json`."""
    return _BY[value["by"]](**{name: option for name, option in value.items() if name != "by"})


def require_library() -> None:
    """Raise StorageError if the library for signatures is not installed."""
    LIBRARY.require("A search for near duplicates")
