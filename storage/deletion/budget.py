"""Bounds of a removal: rows and seconds. Pages end a transaction, and a removal ends between two pages."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Budget:
    """The rows that may still be removed, and the time until which a removal may begin another page.

    `clock` returns seconds; `until` is a time of this clock.
    """

    rows: float = math.inf
    until: float = math.inf
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)

    @classmethod
    def of(cls, rows: int | None = None, seconds: float | None = None) -> Budget:
        """Return a budget of rows and of seconds from now; None is unbounded."""
        until = math.inf if seconds is None else time.monotonic() + seconds
        return cls(math.inf if rows is None else rows, until)

    def is_spent(self) -> bool:
        """Return True if no further page may begin."""
        return self.rows <= 0 or self.clock() >= self.until

    def page(self, largest: int) -> int:
        """Return the size of the next page: at most `largest`, and not more than the rows that are left."""
        return int(min(largest, self.rows))

    def spend(self, rows: int) -> int:
        """Take removed rows off the budget, and return them."""
        self.rows -= rows
        return rows
