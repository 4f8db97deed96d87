"""Faults in processes of docmill that a test starts: each comes to a point, and there it is killed, hangs or fails.

`DOCMILL_TEST_FAULT=point:action[@n]`: at the n-th time (the first by default) that a process comes to the point, it
does the action. A point strikes once for a home folder, so that whoever takes over does not fail the same way; the
points of texts strike whenever their text comes up again. Each strike is a line in `fault.struck` in the home. A
process that hangs goes on once that file is empty.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docmill.storage import fault_points

if TYPE_CHECKING:
    from docmill.storage.core.specs import Spec
    from docmill.tasks.backends import Backend

FAULT = "DOCMILL_TEST_FAULT"
POINTS = {
    "taken": "a hint was taken from the queue, and its shard not claimed yet",
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
# Points of the backend. The last two strike each time.
OF_BACKENDS = {
    "batch": "a batch starts on the device",
    "cut": "a text with the marker is cut",
    "text": "a batch with a text that has the marker starts on the device",
}
MARKER = "⟦fault⟧"
STRUCK = "fault.struck"
LOOK_S = 0.05  # at the file, by a process that hangs
SITE = Path(__file__).with_name("armed")  # arms the fault in programs that are started as their users do


class InjectedFault(Exception):
    """The fault that a test injects."""


def arm(environment: Mapping[str, str] = os.environ) -> None:
    """Arm the fault that the environment names, if any."""
    if FAULT not in environment:
        return
    armed = Armed.parse(environment[FAULT], Path(environment["DOCMILL_HOME"]))
    fault_points.reach = armed.reach
    if armed.point in OF_BACKENDS:
        from docmill.tasks.engine import backend_factory
        from tests.faulty_backend import FaultyBackend

        sound = backend_factory.open_backend

        def open_faulty(spec: Spec, *arguments: Any, **options: Any) -> Backend:
            return FaultyBackend(sound(spec, *arguments, **options), armed)

        backend_factory.open_backend = open_faulty


@dataclass
class Armed:
    """A fault that this process will have."""

    point: str
    action: str
    n: int
    struck: Path
    _times: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def parse(cls, setting: str, home: Path) -> Armed:
        place, _, number = setting.partition("@")
        point, _, action = place.partition(":")
        assert point in POINTS | OF_BACKENDS, point
        assert action in {"kill", "hang", "error"}, action
        return cls(point, action, int(number or 1), home / STRUCK)

    def reach(self, point: str) -> None:
        with self._lock:
            self._times += point == self.point
            due = point == self.point and self._times == self.n
        if due and self._is_first():
            self._act()

    def strike(self) -> None:
        """Note the strike and act, even if the fault has struck before."""
        self.struck.parent.mkdir(parents=True, exist_ok=True)
        with self.struck.open("a") as struck:
            struck.write(self._line())
        self._act()

    def _is_first(self) -> bool:
        """Note that this process strikes, and return True if no process in this home did before."""
        self.struck.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.struck.open("x") as struck:
                struck.write(self._line())
        except FileExistsError:
            return False
        return True

    def _line(self) -> str:
        return f"{os.getpid()} {self.point}:{self.action}\n"

    def _act(self) -> None:
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.action == "hang":
            while self.struck.exists() and self.struck.stat().st_size:
                time.sleep(LOOK_S)
            return
        raise InjectedFault
