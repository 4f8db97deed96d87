"""Throughput over time and the time of devices, from shards with their times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.storage.results.job_counts import FinishedShard
from docmill.worker.web.charts import device_seconds, timeline


def _shard(start: float, end: float, tokens: int = 0, owner: str = "w1") -> FinishedShard:
    return FinishedShard(owner, start, end, 1, tokens)


def test_a_job_without_shards_has_no_timeline() -> None:
    assert timeline([]) is None


def test_the_tokens_of_a_shard_count_evenly_over_the_time_in_which_it_was_held() -> None:
    found = timeline([_shard(100, 104, 40), _shard(102, 104, 20)], periods=4)
    assert found is not None
    assert (found.start, found.width_s, found.rates) == (100, 1, (10, 10, 20, 20))


def test_the_last_period_ends_with_the_last_shard() -> None:
    found = timeline([_shard(0, 5, 50)], periods=3)
    assert found is not None
    assert (found.width_s, found.rates) == (2, (10, 10, 10))


shards = st.builds(
    lambda start, length, tokens, owner: _shard(start, start + length, tokens, owner),
    st.floats(0, 1e5), st.floats(0, 1e5), st.integers(0, 10**6), st.sampled_from("ab"),
)  # fmt: skip


@given(st.lists(shards, min_size=1, max_size=20))
def test_no_token_is_lost_and_the_periods_are_few(found: list[FinishedShard]) -> None:
    times = timeline(found)
    assert times is not None
    assert len(times.rates) <= 41
    end = max(shard.finished_at for shard in found)
    last_s = max(end - times.start - (len(times.rates) - 1) * times.width_s, 0.001)
    tokens = sum(times.rates[:-1]) * times.width_s + times.rates[-1] * last_s
    assert tokens == pytest.approx(sum(shard.tokens for shard in found), rel=1e-6, abs=1e-3)


def test_shards_that_a_worker_held_at_once_count_once() -> None:
    held = [_shard(0, 10), _shard(5, 12), _shard(6, 7), _shard(20, 21), _shard(0, 3, owner="w2")]
    assert device_seconds(held) == {"w1": 13, "w2": 3}
