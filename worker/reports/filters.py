"""Numbers, times and texts as pages of HTML show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from docmill.worker.logs import seen


def counted(n: int, name: str) -> str:
    """Return a number with its noun: `1 text`, `2 texts`."""
    return f"{n:,} {name}{'' if n == 1 else 's'}"


def moment(seconds: float | None) -> str:
    """Return a moment in UTC, to the second."""
    return "—" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def clock(seconds: float) -> str:
    """Return the time of day in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")


def duration(seconds: float) -> str:
    """Return a duration: `41.0 s`, `12 min 5 s`, `3 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


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
