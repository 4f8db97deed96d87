"""A random sample of a stream."""

from __future__ import annotations

import random
from typing import Generic, TypeVar

T = TypeVar("T")


class Reservoir(Generic[T]):
    """Some of a stream's items, each with the same chance (algorithm R of J. Vitter, 1985). A seed fixes the draw."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.kept: list[T] = []
        self._size = size
        self._random = random.Random(seed)  # noqa: S311 - a sample that can be repeated
        self._seen = 0

    def offer(self, item: T) -> None:
        """Take it, or leave it."""
        self._seen += 1
        if len(self.kept) < self._size:
            self.kept.append(item)
        elif (place := self._random.randrange(self._seen)) < self._size:
            self.kept[place] = item
