"""Compute the times at which a pipeline is due. cronsim follows Debian's cron when clocks change (cron(8))."""

from __future__ import annotations

import math
import zoneinfo
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from docmill.tasks.errors import find_similar
from docmill.tasks.kinds.options import shown
from docmill.worker.errors import WorkerError

_FIELDS = (
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of the month", "1 to 31, L or LW"),
    ("month", "1 to 12 or JAN to DEC"),
    ("day of the week", "0 (Sunday) to 7 or SUN to SAT"),
)
_ALL = ("*",) * len(_FIELDS)
_CHECKED_FROM = datetime(2026, 1, 1, tzinfo=UTC)  # what is refused must not depend on when it is asked
_MOST_CHARS = 500


class BadSchedule(WorkerError):
    """A schedule's cron expression or time zone is not one."""


def check(cron: str, timezone: str) -> None:
    """Raise BadSchedule where one of them is wrong, or where the expression never comes (30 February)."""
    next_after(cron, timezone, _CHECKED_FROM.timestamp())


def cron_problem(cron: str) -> str | None:
    """Return the problem of an expression, as the end of a sentence that begins with "cron"; None if it has none."""
    if len(cron) > _MOST_CHARS:
        return f"is longer than {_MOST_CHARS} characters"
    fields = cron.split()
    if len(fields) != len(_FIELDS):
        names = ", ".join(name for name, _ in _FIELDS)
        return f"takes {len(_FIELDS)} fields ({names}), and {shown(cron)} has {len(fields)}"
    problems = [
        f"the {name} cannot be {shown(field)}; write {range_}, a range (1-5), a step (*/5) or a list of these (1,3)"
        for place, (field, (name, range_)) in enumerate(zip(fields, _FIELDS, strict=True))
        if not _reads(" ".join((*_ALL[:place], field, *_ALL[place + 1 :])))
    ]
    return f"is wrong: {'; '.join(problems)}" if problems else None


def _reads(cron: str) -> bool:
    try:
        CronSim(cron, _CHECKED_FROM)
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
    close = dict.fromkeys(known[near] for near in find_similar(name, known))
    return f"did you mean {' or '.join(close)}?" if close else "write an IANA name, such as Europe/Paris"


def next_after(cron: str, timezone: str, after: float) -> float:
    """Return the first time at which a schedule is due strictly after an instant, both in seconds since 1970.

    Raises BadSchedule for a schedule that `check` refuses.
    """
    zone = _read(cron, timezone)
    for local in CronSim(cron, datetime.fromtimestamp(math.floor(after), zone)):
        if local.timestamp() > after:  # where clocks were just put back, cronsim begins with the first of two hours
            return local.timestamp()
    raise BadSchedule(f"{_never(cron)} in {timezone}")


def next_run(schedule: Mapping[str, Any] | None, looked_at: float) -> float | None:
    """Return when a stored schedule is due next; None without one, or if it cannot be read."""
    try:
        return None if schedule is None else next_after(schedule["cron"], schedule["timezone"], looked_at)
    except BadSchedule:  # of another release, or of a zone that is no more
        return None


def due(cron: str, timezone: str, since: float, now: float) -> float | None:
    """Return the latest time in (since, now] at which a schedule is due, or None.

    Times that were missed collapse into the latest of them, and the work does not grow with their number. In the hour
    that clocks repeat, cronsim may give a time of the first hour only when the second has come to it. Raises
    BadSchedule for a schedule that `check` refuses, but for expressions that only a zone's clocks always skip: None.
    """
    zone = _read(cron, timezone)
    for local in CronSim(cron, datetime.fromtimestamp(math.floor(now) + 1, zone), reverse=True):
        if local.timestamp() <= now:
            return local.timestamp() if local.timestamp() > math.floor(since) else None
    return None


def _read(cron: str, timezone: str) -> ZoneInfo:
    """Return the zone. Raises BadSchedule for a wrong expression or zone."""
    problems_of = {"cron": cron_problem(cron), "timezone": timezone_problem(timezone)}
    if problems := [f"{name} {problem}" for name, problem in problems_of.items() if problem]:
        raise BadSchedule("; ".join(problems))
    if not _reads(cron):  # each of its fields is right
        raise BadSchedule(_never(cron))
    return ZoneInfo(timezone)


def _never(cron: str) -> str:
    return f"cron {shown(cron)} is a time that never comes"
