"""Measured times: a table for people, and a file to compare two releases."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

LOOK_S = 0.05


@dataclass(frozen=True)
class Figure:
    """Some measurements of one thing in seconds, and the longest that it may take (None: nothing was promised)."""

    what: str
    store: str
    seconds: tuple[float, ...]
    bound_s: float | None

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    @property
    def max_s(self) -> float:
        return max(self.seconds)

    def row(self) -> str:
        bound = "" if self.bound_s is None else f"{self.bound_s:g}"
        return (
            f"| {self.what} | {self.store} | {len(self.seconds)} | {self.median_s:.1f} | {self.max_s:.1f} | {bound} |"
        )


class Figures:
    """The measurements so far."""

    def __init__(self) -> None:
        self._figures: list[Figure] = []

    def note(self, what: str, store: str, seconds: list[float], bound_s: float | None = None) -> None:
        """Keep some measurements, and hold them to their bound."""
        figure = Figure(what, store, tuple(round(one, 2) for one in seconds), bound_s)
        self._figures.append(figure)
        print(f"\n{figure.row()}")
        assert bound_s is None or figure.max_s <= bound_s, f"{what}: {figure.max_s} s and not {bound_s} s"

    def table(self) -> str:
        head = [
            "| seconds from … until … | store | n | median | max | at most |",
            "| --- | --- | --: | --: | --: | --: |",
        ]
        return "\n".join([*head, *(figure.row() for figure in self._figures)])

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.as_json(), indent=2, ensure_ascii=False) + "\n")

    def as_json(self) -> dict[str, Any]:
        return {
            "docmill": version("docmill"),
            "machine": {"system": platform.platform(), "python": platform.python_version()},
            "figures": [
                {
                    "what": figure.what,
                    "store": figure.store,
                    "seconds": figure.seconds,
                    "median_s": round(figure.median_s, 2),
                    "max_s": figure.max_s,
                    "bound_s": figure.bound_s,
                }
                for figure in self._figures
            ],
        }


def time_until(condition: Callable[[], Any], what: str, within_s: float, *, since: float | None = None) -> float:
    """Return the seconds until a condition is true, from now or from `since` (monotonic)."""
    began = time.monotonic() if since is None else since
    while not condition():
        assert time.monotonic() < began + within_s, f"never happened within {within_s} s: {what}"
        time.sleep(LOOK_S)
    return time.monotonic() - began
