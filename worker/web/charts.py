"""Draw charts as SVG, without scripts, whose colors are those of the page; a job's throughput over time."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

from docmill.storage.results.job_counts import FinishedShard
from docmill.worker.formatting import clock

if TYPE_CHECKING:
    from pygal.graph.graph import Graph


SIZE: Mapping[str, int] = MappingProxyType({"width": 560, "height": 220})
_SVG = "{http://www.w3.org/2000/svg}"
MOST_LABELS = 6
LEAST_S = 60.0
WIDTHS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)


def bars(counts: Sequence[tuple[str, int]], label: str) -> str:
    """Return a chart with a bar for each range and the number in it."""
    chart = _library().Bar(**_options([name for name, _ in counts]), order_min=0, formatter="{:,.0f}".format)
    chart.add(label, [n for _, n in counts])
    return _as_svg(chart, label)


def throughput(shards: Sequence[FinishedShard], size: Mapping[str, int] = SIZE) -> str | None:
    """Return the chart of a job's tokens per second over time; None for less than a minute of work."""
    times = timeline(shards)
    if times is None or max(shard.finished_at for shard in shards) - times.start < LEAST_S:
        return None
    points = [(clock(times.start + n * times.width_s), rate) for n, rate in enumerate(times.rates)]
    return line(points, "Tokens per second over time, UTC", size)


def line(points: Sequence[tuple[str, float]], label: str, size: Mapping[str, int] = SIZE) -> str:
    """Return a chart with a line through these points, whose area is filled."""
    labels = [name for name, _ in points]
    every = max(1, -(-len(labels) // MOST_LABELS))
    options = _options(labels) | {"show_minor_x_labels": False, "x_labels_major": labels[::every], **size}
    chart = _library().Line(**options, fill=True, show_dots=False, formatter="{:,.0f}".format)
    chart.add(label, [round(y, 1) for _, y in points])
    return _as_svg(chart, label)


def _library() -> Any:
    """Return pygal, without its finder of maps: its old protocol makes every later failed import warn."""
    import pygal

    sys.meta_path[:] = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("pygal")]
    return pygal


def _options(labels: Sequence[str]) -> dict[str, Any]:
    plain = {
        "show_legend": False,
        "js": [],
        "include_x_axis": True,
        "margin": 6,
        "truncate_label": -1,
        "max_scale": 8,
    }
    return {**SIZE, **plain, "x_labels": labels}


def _as_svg(chart: Graph, label: str) -> str:
    """Return the chart under a label, without the library's scripts and styles: the page has its own."""
    root = chart.render_tree()
    for parent in [*root.iter()]:
        parent.attrib.pop("style", None)
        for child in [*parent]:
            if child.tag in {f"{_SVG}script", f"{_SVG}style", "script", "style"} or not isinstance(child.tag, str):
                parent.remove(child)
    root.set("role", "img")
    root.set("aria-label", label)
    return _written(root)


def _written(root: Element) -> str:
    from pygal.etree import etree

    return str(etree.tostring(root, encoding="unicode"))


@dataclass(frozen=True)
class Timeline:
    """Tokens per second by period: `rates[i]` holds from `start + i * width_s` on, at most `width_s` long."""

    start: float
    width_s: float
    rates: tuple[float, ...]


def timeline(shards: Sequence[FinishedShard], periods: int = 40) -> Timeline | None:
    """Return the throughput in at most so many periods; None without shards.

    The tokens of a shard count evenly over the time in which a worker held it.
    """
    if not shards:
        return None
    start, end = min(shard.started_at for shard in shards), max(shard.finished_at for shard in shards)
    width_s = _width(end - start, periods)
    tokens = [0.0] * max(1, -int(-(end - start) // width_s))
    for shard in shards:
        length = shard.finished_at - shard.started_at
        if length <= 0:
            tokens[min(len(tokens) - 1, int((shard.finished_at - start) / width_s))] += shard.tokens
            continue
        first, last = shard.started_at - start, shard.finished_at - start
        for period in range(int(first / width_s), min(len(tokens) - 1, int(last / width_s)) + 1):
            held = min(last, (period + 1) * width_s) - max(first, period * width_s)
            tokens[period] += shard.tokens * max(0.0, held) / length
    widths = [width_s] * (len(tokens) - 1) + [max(end - start - (len(tokens) - 1) * width_s, 0.001)]
    return Timeline(start, width_s, tuple(n / width for n, width in zip(tokens, widths, strict=True)))


def _width(length_s: float, periods: int) -> float:
    return next((width for width in WIDTHS_S if length_s <= width * periods), length_s / periods)


def device_seconds(shards: Sequence[FinishedShard]) -> dict[str, float]:
    """Return by worker process the seconds in which it held at least one shard; shards that overlap count once."""
    held_s: dict[str, float] = {}
    until: dict[str, float] = {}
    for shard in sorted(shards, key=lambda shard: shard.started_at):
        begin = max(shard.started_at, until.get(shard.owner, shard.started_at))
        held_s[shard.owner] = held_s.get(shard.owner, 0.0) + max(0.0, shard.finished_at - begin)
        until[shard.owner] = max(until.get(shard.owner, shard.finished_at), shard.finished_at)
    return held_s
