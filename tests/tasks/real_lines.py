"""Lines of the examples' texts for comparisons with a reference: a few always, and 500 in `make soak`."""

from __future__ import annotations

from collections.abc import Sequence

import pytest


def some_and_more(some: int, more: int) -> pytest.MarkDecorator:
    """Parametrize the number of texts: some always, more in `make soak`."""
    return pytest.mark.parametrize("count", [some, pytest.param(more, marks=pytest.mark.soak)])


def real_lines(texts: Sequence[str], count: int, *, shorter_than: int, longer_than: int = 0) -> list[str]:
    """Return lines whose lengths in characters, without white space at their ends, lie between the bounds."""
    found = [line for text in texts for line in text.split("\n") if longer_than < len(line.strip()) < shorter_than]
    assert len(found) >= count
    return found[:count]
