"""The pool of one spec's windows that wait for the device, from all shards."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tasks.batching.batches import Budget, next_batch
from tasks.windows.windows import Encoded

Owner = TypeVar("Owner")


@dataclass(frozen=True, slots=True)
class Item(Generic[Owner]):
    """A window on its way to the device; ``id`` is its arrival number, across all pools of an engine."""

    id: int
    encoded: Encoded
    owner: Owner

    @property
    def tokens(self) -> int:
        return self.encoded.tokens


class Pool(Generic[Owner]):
    """Waiting windows, sorted by length and by age at once. Not thread-safe: the engine's lock guards it."""

    def __init__(self) -> None:
        self._items: dict[int, Item[Owner]] = {}
        self._by_length: list[tuple[int, int]] = []
        self._by_age: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def oldest(self) -> int | None:
        """The smallest arrival number that waits, or None."""
        while self._by_age and self._by_age[0] not in self._items:
            self._by_age.popleft()
        return self._by_age[0] if self._by_age else None

    def add(self, items: Iterable[Item[Owner]]) -> None:
        for item in items:
            assert item.id not in self._items
            self._items[item.id] = item
            self._by_length.append((item.tokens, item.id))
            self._by_age.append(item.id)
        self._by_length.sort()  # the new ones into a sorted list: timsort merges in linear time

    def take(self, budget: Budget) -> Sequence[Item[Owner]]:
        """Remove and return the next batch, longest last; empty when nothing waits, or less than is wanted."""
        oldest = self.oldest
        if oldest is None:
            return []
        low, high = next_batch(self._by_length, (self._items[oldest].tokens, oldest), budget)
        if high - low == len(self) < budget.least:
            return []
        taken = [self._items.pop(number) for _, number in self._by_length[low:high]]
        del self._by_length[low:high]
        return taken

    def discard(self, unwanted: Callable[[Owner], bool]) -> int:
        """Remove the windows whose owner is unwanted; how many there were."""
        gone = {item.id for item in self._items.values() if unwanted(item.owner)}
        if gone:
            self._items = {number: item for number, item in self._items.items() if number not in gone}
            self._by_length = [pair for pair in self._by_length if pair[1] not in gone]
        return len(gone)
