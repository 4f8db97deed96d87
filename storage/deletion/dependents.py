"""Features that keep something about documents or results. Deletion asks them what they need."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache

from docmill.storage.core.transaction import Transaction
from docmill.storage.features import load_all


def _need_none(_transaction: Transaction) -> Collection[int]:
    return ()


def _follow_nothing(_transaction: Transaction, _document_ids: Collection[int]) -> Callable[[], None]:
    return lambda: None


def _clear_nothing(_transaction: Transaction, _corpus_id: int, _size: int) -> int:
    return 0


@dataclass(frozen=True)
class Dependent:
    """A feature, as deletion sees it.

    `needed_specs` returns specs whose results stay however old they are. `removing` is told of documents before they
    are removed, in the same transaction, and returns a function that is called after. `clear_corpus` deletes about
    `size` of the feature's rows of a corpus that is removed, and returns their number, 0 when none is left.
    """

    needed_specs: Callable[[Transaction], Collection[int]] = _need_none
    removing: Callable[[Transaction, Collection[int]], Callable[[], None]] = _follow_nothing
    clear_corpus: Callable[[Transaction, int, int], int] = _clear_nothing


@cache
def dependents() -> tuple[Dependent, ...]:
    """Return the features, which are imported at the first deletion."""
    return tuple(load_all("dependents", Dependent))
