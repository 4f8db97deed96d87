"""The options of a search for near duplicates, as they are stored beside its clusters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from docmill.storage.duplicates.shingles import Shingling
from docmill.storage.errors import LibraryMissing
from docmill.storage.extras import Extra, install

LIBRARY = Extra("dedup", ("rensa",), "near duplicates by words, and --keep-first")


@dataclass(frozen=True)
class ByText:
    """Two texts are near duplicates if the Jaccard similarity of their sets of shingles is at least `threshold`.

    `seed` is that of the MinHash signatures, which propose the pairs to compare.
    """

    threshold: float = 0.8
    shingling: Shingling = Shingling()  # noqa: RUF009 - frozen
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
    """Two documents are near duplicates if the cosine of their vectors under a spec is at least `threshold`."""

    threshold: float
    spec_id: int

    by: ClassVar[Literal["vectors"]] = "vectors"

    def __str__(self) -> str:
        return f"cosine of vectors at least {self.threshold:g}"

    def to_json(self) -> dict[str, Any]:
        """Return the options as they are stored."""
        return {"by": self.by, "threshold": self.threshold, "spec_id": self.spec_id}


Method: TypeAlias = ByText | ByVectors


def stored(value: Mapping[str, Any]) -> Method:
    """Return the method in a value of `to_json`."""
    if value["by"] == ByVectors.by:
        return ByVectors(value["threshold"], value["spec_id"])
    return ByText(value["threshold"], Shingling(value["unit"], value["size"]), value["seed"])


def require_library() -> None:
    """Raise LibraryMissing if the library for signatures is not installed."""
    if not LIBRARY.is_installed:
        raise LibraryMissing(f"near duplicates by words need another library: {install(LIBRARY.name)}")
