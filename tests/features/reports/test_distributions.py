"""Ranges of lengths and of shares, and samples of a stream."""

from __future__ import annotations

from collections import Counter

import pytest

from docmill.features.reports.facts import Sample


@pytest.mark.parametrize("size", [1, 3])
def test_each_item_of_a_stream_has_the_same_chance(size: int) -> None:
    drawn: Counter[int] = Counter()
    for seed in range(3_000):
        sample: Sample[int] = Sample(size, seed)
        for item in range(10):
            sample.add(item)
        assert len({*sample.items}) == size
        drawn.update(sample.items)
    expected = 3_000 * size / 10
    assert all(abs(drawn[item] - expected) < 5 * expected**0.5 for item in range(10))
