"""Lines of the examples' texts for comparisons with a reference, and how many of them a run compares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest


def some_and_more(some: int, more: int) -> pytest.MarkDecorator:
    """Parametrize the number of texts: some always, more in `make soak`."""
    return pytest.mark.parametrize("count", [some, pytest.param(more, marks=pytest.mark.soak)])


def half_and_more(names: Iterable[str]) -> pytest.MarkDecorator:
    """Parametrize `name`: every second one always, the others in `make test-long`."""
    marked = [pytest.param(name, marks=[pytest.mark.long] * (n % 2)) for n, name in enumerate(names)]
    return pytest.mark.parametrize("name", marked)


def real_lines(texts: Sequence[str], count: int, *, shorter_than: int, longer_than: int = 0) -> list[str]:
    """Return lines whose lengths in characters, without white space at their ends, lie between the bounds."""
    found = [line for text in texts for line in text.split("\n") if longer_than < len(line.strip()) < shorter_than]
    assert len(found) >= count
    return found[:count]
