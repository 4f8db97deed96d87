"""Delete rows page by page: each page is a transaction, and a removal ends between two pages.

The next call continues an interrupted removal, and two at once do no harm: a page looks again at what it removes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TypeVar

from docmill.storage.core.database import Database
from docmill.storage.core.transaction import Transaction

PAGE = 500  # rows removed in one transaction, with all that follows
T = TypeVar("T")


@dataclass
class RemovalBudget:
    """The rows that may still be removed, and the time until which a removal may begin another page.

    `clock` returns seconds; `until` is a time of this clock.
    """

    rows: float = math.inf
    until: float = math.inf
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)

    @classmethod
    def of(cls, rows: int | None = None, seconds: float | None = None) -> RemovalBudget:
        """Return a budget of rows and of seconds from now; None is unbounded."""
        until = math.inf if seconds is None else time.monotonic() + seconds
        return cls(math.inf if rows is None else rows, until)

    def is_spent(self) -> bool:
        """Return True if no further page may begin."""
        return self.rows <= 0 or self.clock() >= self.until


@dataclass(frozen=True)
class Removed:
    """The number of removed rows. Nothing else needed the `contents` and `outcomes`."""

    documents: int = 0  # for `gc versions` superseded versions
    contents: int = 0
    outcomes: int = 0
    jobs: int = 0
    ingests: int = 0
    others: int = field(default=0, compare=False)  # of all other tables

    def __add__(self, other: Removed) -> Removed:
        return Removed(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Removed)))

    @property
    def rows(self) -> int:
        return sum(getattr(self, f.name) for f in fields(Removed))


def remove_items(
    database: Database,
    pages: Iterable[Sequence[T]],
    remove: Callable[[Sequence[T], Transaction], Removed],
    budget: RemovalBudget | None = None,
) -> Removed:
    """Call `remove` with at most `PAGE` items in a transaction, until they end or the budget is spent."""
    total, budget = Removed(), budget or RemovalBudget()
    for items in pages:
        first = 0
        while not (is_spent := budget.is_spent()) and first < len(items):
            page = items[first : first + int(min(PAGE, budget.rows))]
            removed = database.write(partial(remove, page))
            budget.rows -= removed.rows
            total += removed
            first += len(page)
        if is_spent:
            break
    return total


def remove_all(
    database: Database,
    remove: Callable[[int, Transaction], Removed | None],
    size: int,
    budget: RemovalBudget | None = None,
) -> Removed:
    """Call `remove` with the number of rows that it may remove in a transaction, until it returns None.

    It ends earlier if the budget is spent.
    """
    total, budget = Removed(), budget or RemovalBudget()
    while not budget.is_spent():
        removed = database.write(partial(remove, int(min(size, budget.rows))))
        if removed is None:
            break
        budget.rows -= removed.rows
        total += removed
    return total
