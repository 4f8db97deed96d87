"""Workers are compared by the time that their shards take for the same work."""

from __future__ import annotations

import pytest

from docmill.storage.results.worker_pace import LEAST_SHARDS, Pace, slowness, total


def pace(tokens: int, held_s: float, shards: int = LEAST_SHARDS, texts: int = 10) -> Pace:
    return Pace(shards, texts, tokens, held_s)


def test_a_worker_is_as_slow_as_its_shards_take_longer_for_as_many_tokens() -> None:
    found = slowness({"a": {1: pace(1_000, 10)}, "b": {1: pace(4_000, 40)}, "slow": {1: pace(1_000, 35)}})
    assert found["slow"] == 3.5
    assert found["a"] == found["b"] == pytest.approx(10 / ((10 + 35) / 2))


def test_workers_are_compared_for_the_same_specs_only() -> None:
    assert slowness({"a": {1: pace(1_000, 10)}, "b": {2: pace(1_000, 99)}}) == {}
    found = slowness({"a": {1: pace(1_000, 10), 2: pace(10, 500)}, "b": {1: pace(1_000, 10)}})
    assert found == {"a": 1.0, "b": 1.0}


def test_a_few_shards_say_nothing_since_the_first_loads_the_model() -> None:
    assert slowness({"a": {1: pace(1_000, 10)}, "b": {1: pace(1_000, 99, shards=LEAST_SHARDS - 1)}}) == {}


def test_texts_count_where_no_model_counts_tokens() -> None:
    found = slowness({"a": {1: pace(0, 10, texts=100)}, "b": {1: pace(0, 10, texts=50)}})
    assert found == {"a": 0.5, "b": 2.0}


def test_paces_of_several_specs_are_summed() -> None:
    found = total([Pace(1, 2, 3, 4.0), Pace(3, 2, 1, 8.0)])
    assert found == Pace(4, 4, 4, 12.0)
    assert found.mean_s == 3.0
