"""Charts as SVG, and the time in which workers held shards."""

from __future__ import annotations

from xml.etree import ElementTree

from docmill.features.reports.page import bars, device_seconds
from docmill.storage.results.job_counts import FinishedShard

SVG = "{http://www.w3.org/2000/svg}"


def test_a_chart_has_a_bar_for_each_range_and_neither_script_nor_style() -> None:
    root = ElementTree.fromstring(bars([("1", 3), ("2–3", 0), ("4–7", 5)], "Results by tokens"))
    assert root.get("aria-label") == "Results by tokens"
    tags = {one.tag for one in root.iter()}
    assert tags.isdisjoint({f"{SVG}script", f"{SVG}style"})
    assert len([one for one in root.iter(f"{SVG}rect") if "rect" in (one.get("class") or "").split()]) == 3
    assert "4–7" in [one.text for one in root.iter(f"{SVG}text")]


def _shard(start: float, end: float, owner: str = "w1") -> FinishedShard:
    return FinishedShard(owner, start, end, 1)


def test_shards_that_a_worker_held_at_once_count_once() -> None:
    held = [_shard(0, 10), _shard(5, 12), _shard(6, 7), _shard(20, 21), _shard(0, 3, owner="w2")]
    assert device_seconds(held) == {"w1": 13, "w2": 3}
