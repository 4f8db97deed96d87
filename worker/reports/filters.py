"""Numbers, times and texts as pages of HTML show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from docmill.worker.formatting import counted, duration
from docmill.worker.logs import seen


def moment(seconds: float | None) -> str:
    """Return a moment in UTC, to the second."""
    return "—" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def clock(seconds: float) -> str:
    """Return the time of day in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")


def percent(part: int, whole: int) -> str:
    """Return a share of a whole, with one decimal."""
    return f"{100 * part / whole:.1f} %" if whole else "—"


FILTERS: Mapping[str, Callable[..., str]] = {
    "n": "{:,}".format,
    "of": counted,
    "time": moment,
    "duration": duration,
    "seen": seen,
    "percent": percent,
}
