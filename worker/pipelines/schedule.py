"""Compute the times at which a pipeline is due.

cronsim parses the expression and steps through local times. This module converts them to instants by the rules of
Debian's cron (cron(8), "daylight saving time"). cronsim has these rules too, but its answer depends on the start:
from the second 2:10 of a night with two, it gives the first 2:30, which is past. It also misses half an hour where
clocks go back by half an hour (Australia/Lord_Howe), and a run where clocks skip midnight.
"""

from __future__ import annotations

import math
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from tasks.kinds.validation import shown
from tasks.near_misses import nearly
from worker.errors import WorkerError
from worker.pipelines import dst

_FIELDS = (
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of the month", "1 to 31, L or LW"),
    ("month", "1 to 12 or JAN to DEC"),
    ("day of the week", "0 (Sunday) to 7 or SUN to SAT"),
)
_ALL = ("*",) * len(_FIELDS)
# The calendar and the rules of a zone's clocks repeat sooner: what does not come in so long never comes.
_HORIZON_S = 50 * 366 * 86_400
_CHECKED_FROM = 1_767_225_600  # 2026-01-01; what is refused must not depend on when it is asked
_MOST_CHARS = 500


class BadSchedule(WorkerError):
    """A schedule's cron expression or time zone is not one."""


@dataclass(frozen=True)
class Schedule:
    """A cron expression of five fields, read in a time zone (an IANA name).

    ``overlap`` says what becomes of a time that comes while the last run is still going: ``skip`` or ``queue``.
    """

    cron: str
    timezone: str = "UTC"
    overlap: str = "skip"


def check(cron: str, timezone: str) -> None:
    """Raise BadSchedule where one of them is wrong, or where the expression never comes (30 February)."""
    next_after(Schedule(cron, timezone), _CHECKED_FROM)


def cron_problem(cron: str) -> str | None:
    """Return the problem of an expression, as the end of a sentence that begins with "cron"; None if it has none."""
    if len(cron) > _MOST_CHARS:
        return f"is longer than {_MOST_CHARS} characters"
    given = cron.split()
    if len(given) != len(_FIELDS):
        names = ", ".join(name for name, _ in _FIELDS)
        return f"takes {len(_FIELDS)} fields ({names}), and {shown(cron)} has {len(given)}"
    problems = [
        f"{shown(field)} is no {name}: it is {range_}, a range (1-5), a step (*/5) or a list of these (1,3)"
        for place, (field, (name, range_)) in enumerate(zip(given, _FIELDS, strict=True))
        if not _reads(" ".join((*_ALL[:place], field, *_ALL[place + 1 :])))
    ]
    return f"is wrong: {'; '.join(problems)}" if problems else None


def _reads(cron: str) -> bool:
    try:
        CronSim(cron, dst.to_local(_CHECKED_FROM, 0))
    except CronSimError:
        return False
    return True


def timezone_problem(name: str) -> str | None:
    """Return the problem of a time zone's name, as the end of a sentence that begins with "timezone"."""
    try:
        ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):  # by whether it has the form of a path, and to what
        return f"names no time zone: {shown(name)}; {_nearest_zones(name)}"
    return None


def _nearest_zones(name: str) -> str:
    names = sorted(zoneinfo.available_timezones())
    known = {zone.rpartition("/")[2].lower(): zone for zone in names} | {zone.lower(): zone for zone in names}
    close = dict.fromkeys(known[one] for one in nearly(name, known))
    return f"did you mean {' or '.join(close)}?" if close else "write an IANA name, such as Europe/Paris"


def next_after(schedule: Schedule, after: float) -> float:
    """The first time at which the schedule is due strictly after an instant, both in seconds since 1970.

    Raises BadSchedule for what `check` refuses.
    """
    cron, zone = _read(schedule)
    find = _next_fixed if _is_fixed(cron) else _next_elapsing
    found = find(cron, zone, math.floor(after))
    if found is None:
        raise BadSchedule(f"{_never(cron)} in {schedule.timezone}")
    return float(found)


def due(schedule: Schedule, since: float, now: float) -> float | None:
    """The latest time in (since, now] at which the schedule is due, or None.

    Times that were missed collapse into the latest of them, and the work does not grow with their number. Raises
    BadSchedule for what `check` refuses, but for expressions that only a zone's clocks always skip: None.
    """
    cron, zone = _read(schedule)
    start, end = math.floor(since), math.floor(now)
    found = _last_fixed(cron, zone, end) if _is_fixed(cron) else _last_elapsing(cron, zone, start, end)
    return float(found) if found is not None and start < found else None


def _read(schedule: Schedule) -> tuple[str, ZoneInfo]:
    """The expression and the zone, or BadSchedule."""
    found = {"cron": cron_problem(schedule.cron), "timezone": timezone_problem(schedule.timezone)}
    if problems := [f"{name} {problem}" for name, problem in found.items() if problem]:
        raise BadSchedule("; ".join(problems))
    try:
        CronSim(schedule.cron, dst.to_local(_CHECKED_FROM, 0))
    except CronSimError as error:  # each of its fields is right
        raise BadSchedule(_never(schedule.cron)) from error
    return schedule.cron, ZoneInfo(schedule.timezone)


def _never(cron: str) -> str:
    return f"cron {shown(cron)} is a time that never comes"


def _is_fixed(cron: str) -> bool:
    """Return True if an expression names times of the day: neither its minute nor its hour begins with a star.

    Such a time is due once a day, whatever the clocks do. Other expressions follow elapsed time: times that the
    clocks skip are not due, and times that they repeat are due twice.
    """
    return not any(field.startswith("*") for field in cron.split()[:2])


def _next_fixed(cron: str, zone: ZoneInfo, after: int) -> int | None:
    for local in CronSim(cron, dst.to_local(after, dst.offset_s(zone, after))):
        instant = dst.first_instant(zone, local)
        if instant > after:  # it is not where clocks were just put back: the first of two is past
            return instant
    return None


def _last_fixed(cron: str, zone: ZoneInfo, until: int) -> int | None:
    for local in _backwards(cron, dst.furthest_local(zone, until)):
        instant = dst.first_instant(zone, local)
        if instant <= until:
            return instant
    return None


def _next_elapsing(cron: str, zone: ZoneInfo, after: int) -> int | None:
    """From one change of the clocks to the next, where local time is an offset away."""
    start = after + 1
    while start - after < _HORIZON_S:
        offset = dst.offset_s(zone, start)
        local = next(CronSim(cron, dst.to_local(start - 1, offset)), None)
        if local is None:
            return None
        found = dst.to_instant(local, offset)
        changed = dst.first_change(zone, start, found)
        if changed is None:
            return found
        start = changed
    return None


def _last_elapsing(cron: str, zone: ZoneInfo, since: int, until: int) -> int | None:
    while since < until:
        offset = dst.offset_s(zone, until)
        local = next(_backwards(cron, dst.to_local(until, offset)), None)
        found = since if local is None else max(since, dst.to_instant(local, offset))
        changed = dst.last_change(zone, found, until)
        if changed is None:
            return found
        until = changed - 1
    return None


def _backwards(cron: str, local: datetime) -> Iterator[datetime]:
    """The local times that match, from the latest that is not after ``local``."""
    return CronSim(cron, local + timedelta(seconds=1), reverse=True)
