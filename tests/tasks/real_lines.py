"""Lines of the example texts to compare with a reference, and the number of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest


def some_and_more(few: int, more: int) -> pytest.MarkDecorator:
    """Parametrize the number of texts: ``few`` always, ``more`` in `make soak`."""
    return pytest.mark.parametrize("count", [few, pytest.param(more, marks=pytest.mark.soak)])


def half_and_more(names: Iterable[str]) -> pytest.MarkDecorator:
    """Parametrize `name`: every second name always, the others in `make test-long`."""
    marked = [pytest.param(name, marks=[pytest.mark.long] * (n % 2)) for n, name in enumerate(names)]
    return pytest.mark.parametrize("name", marked)


def real_lines(texts: Sequence[str], count: int, *, shorter_than: int, longer_than: int = 0) -> list[str]:
    """Return the first lines whose stripped lengths in characters lie between the bounds."""
    lines = [line for text in texts for line in text.split("\n") if longer_than < len(line.strip()) < shorter_than]
    assert len(lines) >= count
    return lines[:count]
