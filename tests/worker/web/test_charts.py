"""Charts as SVG, and the throughput over time that they show."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.storage.results.job_counts import FinishedShard
from docmill.worker.web import charts
from docmill.worker.web.charts import device_seconds, timeline

SVG = "{http://www.w3.org/2000/svg}"


def test_a_chart_has_a_bar_for_each_range_and_neither_script_nor_style() -> None:
    root = ElementTree.fromstring(charts.bars([("1", 3), ("2–3", 0), ("4–7", 5)], "Results by tokens"))
    assert root.get("aria-label") == "Results by tokens"
    tags = {one.tag for one in root.iter()}
    assert tags.isdisjoint({f"{SVG}script", f"{SVG}style"})
    assert len([one for one in root.iter(f"{SVG}rect") if "rect" in (one.get("class") or "").split()]) == 3
    assert "4–7" in [one.text for one in root.iter(f"{SVG}text")]


def _shard(start: float, end: float, tokens: int = 0, owner: str = "w1") -> FinishedShard:
    return FinishedShard(owner, start, end, 1, tokens)


def test_the_tokens_of_a_shard_count_evenly_over_the_time_in_which_it_was_held() -> None:
    found = timeline([_shard(100, 104, 40), _shard(102, 104, 20)], periods=4)
    assert found is not None
    assert (found.start, found.width_s, found.rates) == (100, 1, (10, 10, 20, 20))


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
