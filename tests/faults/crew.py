"""Workers that are killed, frozen and ended, each in a place where another takes over, as under an init system.

Some of the places are machines of their own: their process numbers mean nothing to the others, who learn of a death
by the lease alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from docmill.worker.jobs.errors import UNREACHABLE
from tests.faults.fleet import Fleet
from tests.worker.harness import Running, children, command_of, device_children, device_pids, until

PID_NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc")
STARTS_AGAIN_S = 1.0


@cache
def pid_namespace() -> tuple[str, ...]:
    """Return the prefix of a command that runs in a PID namespace of its own; empty where that is not allowed."""
    if shutil.which(PID_NAMESPACE[0]) is None:
        return ()
    return PID_NAMESPACE if subprocess.run([*PID_NAMESPACE, "true"], capture_output=True).returncode == 0 else ()


def send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@dataclass(frozen=True)
class End:
    """A worker's end: its exit code, and the seconds that it took after a signal."""

    place: str
    code: int
    was_told: bool
    killed: bool
    was_ready: bool
    took_s: float


class WorkerSlot:
    """A place for a worker. When its worker ends, another starts after a while."""

    def __init__(self, fleet: Fleet, name: str, *, apart: bool = False, options: Sequence[str] = ()) -> None:
        self.name = name
        self.log = fleet.folder / f"worker-{name}.log"
        self.ends: list[End] = []
        self._fleet = fleet
        self._prefix = pid_namespace() if apart else ()
        self._options = options
        self._process: Running | None = None
        self._start_at = 0.0
        self._thaw_at: dict[int, float] = {}
        self._told_at: float | None = None
        self._frozen_since_told = False
        self._killed = False
        self._ready = False

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = self._fleet.launch(("worker", *self._options), log, log, self._prefix)
        self._told_at, self._killed, self._ready, self._frozen_since_told = None, False, False, False

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def supervisor(self) -> int | None:
        """Return the process id of the worker, as this process sees it; None if it does not run."""
        if self._process is None or self._process.poll() is not None:
            return None
        return next(iter(children(self._process.pid)), None) if self._prefix else self._process.pid

    def devices(self) -> list[int]:
        supervisor = self.supervisor()
        if supervisor is None or self._process is None:
            return []
        return device_children(supervisor) if self._prefix else device_pids(self._process)

    def all_pids(self) -> list[int]:
        supervisor = self.supervisor()
        return [] if supervisor is None else [supervisor, *self.devices()]

    def kill(self, pids: Sequence[int], again_in_s: float = STARTS_AGAIN_S) -> None:
        """Send SIGKILL to these processes."""
        self._killed = self._killed or self.supervisor() in pids
        self._start_at = time.monotonic() + again_in_s
        for pid in pids:
            send(pid, signal.SIGKILL)

    def freeze(self, pids: Sequence[int], for_s: float) -> None:
        self._frozen_since_told = True
        for pid in pids:
            send(pid, signal.SIGSTOP)
            self._thaw_at[pid] = max(time.monotonic() + for_s, self._thaw_at.get(pid, 0.0))

    def thaw(self) -> None:
        """Let all frozen processes continue."""
        for pid in self._thaw_at:
            if any(name in command_of(pid) for name in (b"docmill", b"forkserver.py")):
                send(pid, signal.SIGCONT)
        self._thaw_at.clear()

    def tell(self, number: signal.Signals, again_in_s: float = STARTS_AGAIN_S) -> bool:
        """Signal the worker to end. Return False if it does not handle signals yet."""
        supervisor = self.supervisor()
        if supervisor is None or not self.devices():
            return False
        send(supervisor, number)
        if self._told_at is None:
            self._told_at = time.monotonic()
            self._frozen_since_told = bool(self._thaw_at)
        self._start_at = time.monotonic() + again_in_s
        return True

    def tend(self) -> None:
        """Continue processes whose freeze is over, and replace a worker that ended."""
        now = time.monotonic()
        for pid in [pid for pid, at in self._thaw_at.items() if at <= now]:
            del self._thaw_at[pid]
            send(pid, signal.SIGCONT)
        if self._process is not None and self._process.poll() is None:
            self._ready = self._ready or bool(self.devices())
            return
        if self._process is not None:
            self.note_end()
            self._start_at = max(self._start_at, now + STARTS_AGAIN_S if not self.ends[-1].was_told else 0.0)
        if now >= self._start_at:
            self.start()

    def note_end(self) -> None:
        """Record how the worker ended."""
        assert self._process is not None
        now = time.monotonic()
        was_told = self._told_at is not None
        took_s = now - self._told_at if self._told_at is not None and not self._frozen_since_told else 0.0
        self.ends.append(End(self.name, self._process.wait(), was_told, self._killed, self._ready, took_s))
        self._process = None

    def finish(self, within_s: float) -> None:
        """Drain the worker for good."""
        self.thaw()
        if self.tell(signal.SIGTERM):
            until(lambda: not self.lives, f"the worker {self.name} ends when it is told to", within_s)
            self.note_end()

    def abandon(self) -> None:
        """Kill all that is left of the worker."""
        self.thaw()
        self.kill(self.all_pids())
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def oddities(self) -> list[str]:
        """Return descriptions of unexpected ends."""
        return [
            f"worker {end.place} ended with {end.code}"
            for end in self.ends
            if not end.killed and end.code != 0 and not (end.code == UNREACHABLE and not end.was_ready)
        ] + [f"worker {end.place} ended by itself" for end in self.ends if end.code == 0 and not end.was_told]
