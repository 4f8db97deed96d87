"""Plot curves as SVG files beside the tables of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.pairs import RESULTS

Curve = Mapping[float, float]


@dataclass(frozen=True)
class Axes:
    """The title of a plot and the names of its axes. The y axis begins at zero."""

    title: str
    x: str
    y: str


def draw(name: str, axes: Axes, curves: Mapping[str, Curve], levels: Mapping[str, float] | None = None) -> None:
    """Write `results/NAME.svg`: a line for each curve over a logarithmic axis, and a dashed line for each level."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "docmill"  # so that the same data gives the same file
    from matplotlib import pyplot

    figure, area = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for label, curve in curves.items():
        area.plot(list(curve), list(curve.values()), marker="o", label=label)
    for label, level in (levels or {}).items():
        area.axhline(level, linestyle="--", color="grey")
        area.annotate(label, (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    ticks: Sequence[float] = sorted({x for curve in curves.values() for x in curve})
    area.set_xscale("log", base=2)
    area.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    area.set(title=axes.title, xlabel=axes.x, ylabel=axes.y, ylim=(0, None))
    area.legend()
    figure.savefig(RESULTS / f"{name}.svg", metadata={"Date": None})
    pyplot.close(figure)
