"""Convert between instants and local times of a time zone, and find the changes of its clocks.

Instants are whole seconds since 1970 UTC; local times are datetimes without a zone. An instant plus ``offset_s`` is
the local time.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

# zoneinfo does not tell when clocks are changed, so offsets are looked at in steps. No zone of today changes its
# clocks twice in a day; the closest are weeks apart (Africa/Casablanca, around Ramadan).
_STEP_S = 86_400
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a local time


def offset_s(zone: ZoneInfo, instant: int) -> int:
    return _seconds(datetime.fromtimestamp(instant, zone).utcoffset())


def _seconds(offset: timedelta | None) -> int:
    assert offset is not None
    return offset // timedelta(seconds=1)


def to_local(instant: int, offset: int) -> datetime:
    return _EPOCH + timedelta(seconds=instant + offset)


def to_instant(local: datetime, offset: int) -> int:
    return (local - _EPOCH) // timedelta(seconds=1) - offset


def first_instant(zone: ZoneInfo, local: datetime) -> int:
    """The instant of a local time: the first of the two where clocks are put back over it, the moment when they are
    put forward where they skip it."""
    before, after = (_seconds(local.replace(tzinfo=zone, fold=fold).utcoffset()) for fold in (0, 1))  # PEP 495
    if before >= after:
        return to_instant(local, before)
    changed = first_change(zone, to_instant(local, after), to_instant(local, before))
    assert changed is not None
    return changed


def furthest_local(zone: ZoneInfo, instant: int) -> datetime:
    """The local time as if clocks had not just been put back: no later one has its first instant by then."""
    here = datetime.fromtimestamp(instant, zone)
    return to_local(instant, _seconds(here.replace(fold=0).utcoffset()))


def first_change(zone: ZoneInfo, start: int, end: int) -> int | None:
    """The first instant in (start, end] with another offset than at the start."""
    offset = offset_s(zone, start)
    while start < end:
        step = min(start + _STEP_S, end)
        if offset_s(zone, step) != offset:
            return _change_between(zone, start, step)
        start = step
    return None


def last_change(zone: ZoneInfo, start: int, end: int) -> int | None:
    """The last instant in (start, end] at which the offset became what it is at the end."""
    offset = offset_s(zone, end)
    while start < end:
        step = max(end - _STEP_S, start)
        if offset_s(zone, step) != offset:
            return _change_between(zone, step, end)
        end = step
    return None


def _change_between(zone: ZoneInfo, low: int, high: int) -> int:
    """The change in (low, high], by halves."""
    offset = offset_s(zone, low)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if offset_s(zone, middle) == offset else (low, middle)
    return high
