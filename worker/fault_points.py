"""Places where docmill's own tests make a process fail. Inert unless the setting `fault` arms one.

`DOCMILL_FAULT=point:action[@n]`: at the n-th time (the first, where none is given) that a process comes to the point,
it does the action. A point strikes once for a home folder, so that whoever takes over does not fail the same way; the
points of texts strike whenever their text comes up again. Each strike is a line in `fault.struck` in the home. A
process that hangs goes on once that file is empty.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

POINTS = {
    "taken": "a hint was taken from the queue, and its shard not claimed yet",
    "claimed": "a shard was claimed",
    "batch": "a batch starts on the device",
    "computed": "a shard is computed, and its commit has not begun",
    "committed": "a shard is committed",
    "upkeep": "a round of maintenance is half done",
    "enqueue": "a chunk of a source is stored",
    "export": "a line of an output file is written",
    "swept": "a page of a corpus is planned, or a reading has ended",
    "migration": "a migration is stored, and its backfill is not",
    "backfill": "the job of a backfill is stored, and nothing of it is planned",
    "filled": "a backfill is complete, and the switch has not begun",
    "switching": "the switch of a migration is half done, in its transaction",
    "switched": "a migration is switched, and the command has not said so",
}
TEXT_POINTS = {
    "cut": "a text with the marker is cut",
    "text": "a batch with a text that has the marker starts on the device",
}
ACTIONS = ("kill", "hang", "error")
OF_OUTPUTS = ("oom", "nan")  # for `text`: out of memory above n tokens a batch; a vector that is not a number
MARKER = "⟦fault⟧"
STRUCK = "fault.struck"
LOOK_S = 0.05  # at the file, by a process that hangs


class InjectedFault(Exception):
    """The fault that DOCMILL_FAULT asked for."""


@dataclass(frozen=True)
class Fault:
    point: str
    action: str
    n: int = 1


def parse(setting: str) -> Fault:
    """The fault of a setting. Raises ValueError, whose message names what there is."""
    place, _, number = setting.partition("@")
    point, _, action = place.partition(":")
    if point not in {*POINTS, *TEXT_POINTS}:
        raise ValueError(f"unknown fault point {point!r}; there are {', '.join([*POINTS, *TEXT_POINTS])}")
    known = (*ACTIONS, *OF_OUTPUTS) if point == "text" else ACTIONS
    if action not in known:
        raise ValueError(f"unknown action {action!r} of fault point {point}; there are {', '.join(known)}")
    if number and not (number.isascii() and number.isdigit() and int(number)):
        raise ValueError("a fault's number is a whole number above 0")
    return Fault(point, action, int(number or 1))


class Armed:
    """A fault on its way to happening in this process."""

    def __init__(self, fault: Fault, home: Path) -> None:
        self.fault = fault
        self._struck = home / STRUCK
        self._times = 0
        self._lock = threading.Lock()

    def reach(self, point: str) -> None:
        with self._lock:
            self._times += point == self.fault.point
            due = point == self.fault.point and self._times == self.fault.n
        if due and self._first():
            self._act()

    def strike(self) -> None:
        """Do it, whether it was done before or not."""
        self.note()
        self._act()

    def note(self) -> None:
        self._struck.parent.mkdir(parents=True, exist_ok=True)
        with self._struck.open("a") as struck:
            struck.write(self._line())

    def _first(self) -> bool:
        """Note that this process strikes, and return True if no process in this home did before."""
        self._struck.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._struck.open("x") as struck:
                struck.write(self._line())
        except FileExistsError:
            return False
        return True

    def _line(self) -> str:
        return f"{os.getpid()} {self.fault.point}:{self.fault.action}\n"

    def _act(self) -> None:
        if self.fault.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault.action == "hang":
            while self._struck.exists() and self._struck.stat().st_size:
                time.sleep(LOOK_S)
            return
        raise InjectedFault


_armed: Armed | None = None


def arm(setting: str | None, home: Path) -> None:
    """Make this process fail as the setting says; None disarms it."""
    global _armed  # noqa: PLW0603 - a process fails as a whole
    _armed = None if setting is None else Armed(parse(setting), home)


def armed() -> Armed | None:
    return _armed


def reach(point: str) -> None:
    """The process comes to a point: here it fails, if that is its fault."""
    if _armed is not None:
        _armed.reach(point)


def along(point: str, items: Iterable[T]) -> Iterable[T]:
    """The items; each of them is a time that the point is come to."""
    return items if _armed is None else _reaching(point, items)


def _reaching(point: str, items: Iterable[T]) -> Iterator[T]:
    for item in items:
        yield item
        reach(point)
