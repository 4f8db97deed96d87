"""Ranges of lengths and of shares, and samples of a stream."""

from __future__ import annotations

from collections import Counter

import pytest

from docmill.features.reports.facts import Sample, length_ranges, tenth_ranges


def test_each_range_of_lengths_is_twice_as_wide_as_the_one_before() -> None:
    counts = Counter(length.bit_length() for length in (1, 2, 3, 4, 9, 15, 1023, 1024))
    assert length_ranges(counts) == [
        ("1", 1), ("2–3", 2), ("4–7", 1), ("8–15", 2), ("16–31", 0), ("32–63", 0), ("64–127", 0), ("128–255", 0),
        ("256–511", 0), ("512–1,023", 1), ("1,024–2,047", 1),
    ]  # fmt: skip
    assert length_ranges({}) == []


def test_tenths_are_ten_or_none() -> None:
    assert [n for _, n in tenth_ranges({0: 2, 9: 1})] == [2, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert tenth_ranges({9: 1})[-1] == ("0.9–1.0", 1)
    assert tenth_ranges({}) == []


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


def test_a_short_stream_is_its_sample() -> None:
    sample: Sample[str] = Sample(3)
    for item in "ab":
        sample.add(item)
    assert sample.items == ["a", "b"]
