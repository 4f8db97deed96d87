"""Distributions of numbers in a fixed number of ranges, and samples of a stream, in flat memory."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass
class Lengths:
    """Counts of lengths by range: 0, 1, 2–3, 4–7 and so on, each twice as wide as the one before."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, length: int) -> None:
        self.counts[length.bit_length()] += 1

    def ranges(self) -> list[tuple[str, int]]:
        """Return the ranges from the first to the last that has any, and how many are in each."""
        if not self.counts:
            return []
        bits = range(min(self.counts), max(self.counts) + 1)
        return [(_range(n), self.counts[n]) for n in bits]


def _range(bits: int) -> str:
    if bits < 2:
        return str(bits)
    return f"{2 ** (bits - 1):,}–{2**bits - 1:,}"


@dataclass
class Shares:
    """Counts of numbers from 0 to 1 by tenth."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, share: float) -> None:
        self.counts[min(9, max(0, int(share * 10)))] += 1

    def ranges(self) -> list[tuple[str, int]]:
        """Return the tenths, and how many are in each; nothing if nothing was added."""
        return [(f"{n / 10:.1f}–{(n + 1) / 10:.1f}", self.counts[n]) for n in range(10)] if self.counts else []


class Sample(Generic[Item]):
    """Some of a stream's items, each with the same chance (algorithm R of J. Vitter, 1985). A seed fixes the draw."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self._size = size
        self._seen = 0
        self._random = random.Random(seed)  # noqa: S311 - a draw, no secret
        self.items: list[Item] = []

    def add(self, item: Item) -> None:
        self._seen += 1
        if len(self.items) < self._size:
            self.items.append(item)
        elif (place := self._random.randrange(self._seen)) < self._size:
            self.items[place] = item
