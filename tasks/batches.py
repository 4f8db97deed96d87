"""Which waiting windows are computed together: pure, and without torch.

A batch starts from the oldest waiting window, so that no length is starved, and is filled with the windows
nearest to it in length, so that little of it is padding.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

SLACK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds of one batch: ``tokens`` of rows × longest, at most ``rows``.

    No window joins a batch whose longest is more than ``spread`` times as long (``SLACK_TOKENS`` of difference
    are always allowed): a short window beside long ones is computed faster with other short ones.
    A backend that computes no padding says ``packed``. One that has enough to do for now takes nothing while all that
    waits is one batch of fewer than ``least`` windows; one that has nothing to do and gains by full batches waits up
    to ``patience_s`` seconds while windows are being cut, for some batches of them.
    """

    tokens: int
    rows: int
    spread: float = 2.0
    packed: bool = False
    least: int = 1
    patience_s: float = 0.0

    def computed(self, tokens: Sequence[int]) -> int:
        """How many tokens the device computes for windows of these lengths, padding included."""
        return sum(tokens) if self.packed else len(tokens) * max(tokens)

    def halved(self, padded_tokens: int) -> Budget:
        """The budget after a batch of ``padded_tokens`` did not fit."""
        return replace(self, tokens=max(1, min(self.tokens, padded_tokens) // 2))

    def holds(self, rows: int, longest: int) -> bool:
        return rows <= self.rows and rows * longest <= self.tokens

    def near(self, shortest: int, longest: int) -> bool:
        return longest <= max(shortest * self.spread, shortest + SLACK_TOKENS)


def next_batch(waiting: Sequence[tuple[int, int]], oldest: tuple[int, int], budget: Budget) -> tuple[int, int]:
    """The slice ``[low, high)`` of ``waiting`` to compute next.

    ``waiting`` is sorted and holds (tokens, arrival number) pairs; ``oldest``, the pair with the smallest
    arrival number, is always in the slice. A window over the budget is computed alone. Costs O(log n + batch).
    """
    low = bisect_left(waiting, oldest)
    assert waiting[low] == oldest
    high = low + 1
    length = oldest[0]
    while True:
        shorter = waiting[low - 1][0] if low > 0 else None
        longer = waiting[high][0] if high < len(waiting) else None
        shortest, longest = waiting[low][0], waiting[high - 1][0]
        rows = high - low + 1
        if longer is not None and not (budget.holds(rows, longer) and budget.near(shortest, longer)):
            longer = None
        if shorter is not None and not (budget.holds(rows, longest) and budget.near(shorter, longest)):
            shorter = None
        if longer is not None and (shorter is None or longer - length <= length - shorter):
            high += 1
        elif shorter is not None:
            low -= 1
        else:
            return low, high
