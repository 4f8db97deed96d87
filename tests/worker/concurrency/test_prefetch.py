"""Values that are made on a thread of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from docmill.worker.concurrency.prefetch import ahead


def test_values_come_in_their_order() -> None:
    assert list(ahead(range(100))) == list(range(100))


def test_what_the_making_raises_comes_after_the_values_before_it() -> None:
    def values() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    found = ahead(values())
    assert next(found) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(found)


def test_whoever_stops_early_has_few_values_made_in_vain() -> None:
    made = []
    over = threading.Event()

    def values() -> Iterator[int]:
        try:
            for number in range(1_000):
                made.append(number)
                yield number
        finally:
            over.set()

    found = ahead(values())
    assert next(found) == 0
    found.close()  # type: ignore[attr-defined]
    assert over.wait(10)
    assert len(made) <= 4
