"""Commands that an operator gives while things go wrong: each again until it comes through, one after the other."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.fleet import Fleet
from tests.worker.harness import Running

AGAIN_S = 0.5
PATIENCE_S = 120.0  # a command that says nothing for longer hangs
UNREACHABLE = 3


@dataclass(frozen=True)
class Errand:
    """A command. `kill_after_s` has its first run killed with -9; `then` gets what it printed in the end."""

    arguments: tuple[str, ...]
    kill_after_s: float | None = None
    then: Callable[[Any], None] = lambda printed: None


class Errands:
    """One command at a time, in the order in which they were given."""

    def __init__(self, fleet: Fleet) -> None:
        self._mill = fleet
        self._left: deque[Errand] = deque()
        self._process: Running | None = None
        self._began = 0.0
        self._tries = 0
        self.killed = 0
        self.refused = 0  # those that found something away, and said so
        self.oddities: list[str] = []

    def give(self, *arguments: Any, kill_after_s: float | None = None, then: Any = lambda printed: None) -> None:
        self._left.append(Errand(tuple(map(str, arguments)), kill_after_s, then))

    @property
    def done(self) -> bool:
        return not self._left

    def tend(self) -> None:
        if not self._left:
            return
        now = time.monotonic()
        errand = self._left[0]
        if self._process is None:
            if now >= self._began:
                self._start(errand)
        elif (code := self._process.poll()) is not None:
            self._ended(errand, code)
        elif self._tries == 1 and errand.kill_after_s is not None and now - self._began > errand.kill_after_s:
            self.killed += 1
            self._process.kill()
        elif now - self._began > PATIENCE_S:
            self.oddities.append(f"hangs: {' '.join(errand.arguments)}")
            self._process.kill()

    def _start(self, errand: Errand) -> None:
        self._tries += 1
        self._began = time.monotonic()
        # What it says goes to a file, so that a full pipe stops nobody.
        with self._file("out").open("wb") as out, self._file("log").open("ab") as log:
            self._process = self._mill.launch((*errand.arguments, "--json"), out, log)

    def _ended(self, errand: Errand, code: int) -> None:
        self._process = None
        self._began = time.monotonic() + AGAIN_S
        if code == 0:
            self._left.popleft()
            self._tries = 0
            errand.then(json.loads(self._file("out").read_text() or "null"))
        elif code == UNREACHABLE:
            self.refused += 1
        elif code > 0:
            self.oddities.append(f"exit code {code}: {' '.join(errand.arguments)}")

    def _file(self, kind: str) -> Path:
        return self._mill.folder / f"errand.{kind}"

    def abandon(self) -> None:
        self._left.clear()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
