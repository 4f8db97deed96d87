"""Filters of documents: with `--leave-out KIND` a step leaves out documents of a kind. Features bring the kinds.

A filter changes only once a source was read to its end. So a step with one plans its documents then, and not while
they are read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from docmill.storage.errors import NotFound
from docmill.storage.features import features

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, FromClause

    from docmill.storage.core.database import Database
    from docmill.storage.core.transaction import Transaction

Hear = Callable[[str], None]


@dataclass(frozen=True)
class DocumentFilter:
    """The documents that a step may leave out.

    `leaves_out` returns the condition for a table of documents, with the column `id`. `update` looks at a corpus
    whose source was read, tells a listener of its progress, and returns a sentence for the user, or None. `explain`
    returns why a document is left out, behind "It is", and None for other documents; `reason` says so of any
    document. `require` raises StorageError if the filter cannot work here.
    """

    reason: str
    leaves_out: Callable[[FromClause], ColumnElement[bool]]
    update: Callable[[Database, int, Hear], str | None]
    explain: Callable[[Transaction, int], str | None]
    require: Callable[[], None] = lambda: None


def filter_names() -> tuple[str, ...]:
    """Return the names of all filters."""
    return tuple(name for feature in features() for name in feature.filters)


@cache
def find_filter(name: str) -> DocumentFilter:
    """Return a filter by its name. Raises NotFound."""
    for feature in features():
        if name in feature.filters:
            return feature.load(feature.filters[name], DocumentFilter)
    raise NotFound(f"no feature leaves out {name!r}; there are {', '.join(filter_names()) or 'no such kinds'}")
