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

OWN_NUMBERS = ("unshare", "--pid", "--fork", "--mount-proc")
STARTS_AGAIN_S = 1.0


@cache
def own_numbers() -> tuple[str, ...]:
    """The beginning of a command that runs in a process namespace of its own; nothing where that is not allowed."""
    if shutil.which(OWN_NUMBERS[0]) is None:
        return ()
    return OWN_NUMBERS if subprocess.run([*OWN_NUMBERS, "true"], capture_output=True).returncode == 0 else ()


def send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@dataclass(frozen=True)
class End:
    """The end of a worker: its exit code, and the time it took to end if it was told to."""

    place: str
    code: int
    told: bool
    killed: bool
    was_ready: bool
    took_s: float


class WorkerSlot:
    """A place for one worker. A worker that ended is replaced after a while."""

    def __init__(self, fleet: Fleet, name: str, *, apart: bool = False, options: Sequence[str] = ()) -> None:
        self.name = name
        self.log = fleet.folder / f"worker-{name}.log"
        self.ends: list[End] = []
        self._mill = fleet
        self._within = own_numbers() if apart else ()
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
            self._process = self._mill.launch(("worker", *self._options), log, log, self._within)
        self._told_at, self._killed, self._ready, self._frozen_since_told = None, False, False, False

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def supervisor(self) -> int | None:
        """Its process, by our numbers."""
        if self._process is None or self._process.poll() is not None:
            return None
        return next(iter(children(self._process.pid)), None) if self._within else self._process.pid

    def devices(self) -> list[int]:
        supervisor = self.supervisor()
        if supervisor is None or self._process is None:
            return []
        return device_children(supervisor) if self._within else device_pids(self._process)

    def everybody(self) -> list[int]:
        supervisor = self.supervisor()
        return [] if supervisor is None else [supervisor, *self.devices()]

    def kill(self, pids: Sequence[int], again_in_s: float = STARTS_AGAIN_S) -> None:
        """kill -9."""
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
        """Let everybody go on."""
        for pid in self._thaw_at:
            if any(
                ours in command_of(pid) for ours in (b"docmill", b"docmill.worker.process.device", b"forkserver.py")
            ):
                send(pid, signal.SIGCONT)
        self._thaw_at.clear()

    def tell(self, number: signal.Signals, again_in_s: float = STARTS_AGAIN_S) -> bool:
        """Have the worker end by a signal; False when it is not yet as far as to hear one."""
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
        """Let those go on whose time is over, and replace a worker that ended."""
        now = time.monotonic()
        for pid in [pid for pid, at in self._thaw_at.items() if at <= now]:
            del self._thaw_at[pid]
            send(pid, signal.SIGCONT)
        if self._process is not None and self._process.poll() is None:
            self._ready = self._ready or bool(self.devices())
            return
        if self._process is not None:
            self.note_end()
            self._start_at = max(self._start_at, now + STARTS_AGAIN_S if not self.ends[-1].told else 0.0)
        if now >= self._start_at:
            self.start()

    def note_end(self) -> None:
        """Keep how a worker ended that has."""
        assert self._process is not None
        now = time.monotonic()
        told = self._told_at is not None
        took_s = now - self._told_at if self._told_at is not None and not self._frozen_since_told else 0.0
        self.ends.append(End(self.name, self._process.wait(), told, self._killed, self._ready, took_s))
        self._process = None

    def finish(self, within_s: float) -> None:
        """End the worker in peace and for good."""
        self.thaw()
        if self.tell(signal.SIGTERM):
            until(lambda: not self.lives, f"the worker {self.name} ends when it is told to", within_s)
            self.note_end()

    def abandon(self) -> None:
        """Leave nothing of it behind."""
        self.thaw()
        self.kill(self.everybody())
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def oddities(self) -> list[str]:
        """Ends that nobody asked for, or that were not as they should be."""
        return [
            f"worker {end.place} ended with {end.code}"
            for end in self.ends
            if not end.killed and end.code != 0 and not (end.code == UNREACHABLE and not end.was_ready)
        ] + [f"worker {end.place} ended by itself" for end in self.ends if end.code == 0 and not end.told]
