"""Samples of a stream."""

from __future__ import annotations

from collections import Counter

import pytest

from docmill.storage.results.sampling import Reservoir


@pytest.mark.parametrize("size", [1, 3])
def test_each_item_of_a_stream_has_the_same_chance_and_a_seed_fixes_the_draw(size: int) -> None:
    def draw(seed: int) -> list[int]:
        sample = Reservoir[int](size, seed)
        for item in range(10):
            sample.offer(item)
        return sample.kept

    assert draw(5) == draw(5)
    drawn = [draw(seed) for seed in range(3_000)]
    assert all(len({*sample}) == size for sample in drawn)
    counts = Counter(item for sample in drawn for item in sample)
    expected = 3_000 * size / 10
    assert all(abs(counts[item] - expected) < 5 * expected**0.5 for item in range(10))
    assert Reservoir[int](0).kept == []
