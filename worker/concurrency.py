"""Threads beside long work, and processes of this machine."""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, TypeVar

from docmill.storage.errors import LeaseLost, StorageError

T = TypeVar("T")

NAME = "read-ahead"
DEPTH = 1  # values that wait; one more is being made


def prefetch(values: Iterable[T]) -> Iterator[T]:
    """Yield the values of an iterable, which a thread makes in advance. Its errors are raised here, in their place.

    At most two values are ahead of the one in use. If the caller stops early, the thread makes no further value.
    """
    ready: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(DEPTH)
    stopped = threading.Event()

    def put(item: tuple[T] | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def make() -> None:
        try:
            for value in values:
                put((value,))
                if stopped.is_set():
                    return
        except BaseException as error:  # the caller gets any error
            put(error)
        else:
            put(None)

    # A daemon, since a source that is a pipe may block it for ever.
    thread = threading.Thread(target=make, name=NAME, daemon=True)
    try:
        thread.start()
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        stopped.set()


def is_prefetch_blocked() -> bool:
    """Return True if a prefetching thread is still blocked by its source after its values are no longer wanted."""
    # An interrupt may come while a thread starts.
    waiting = [thread for thread in threading.enumerate() if thread.name == NAME and thread.is_alive()]
    for thread in waiting:
        thread.join(1.0)
    return any(thread.is_alive() for thread in waiting)


log = logging.getLogger("docmill.renewal")

LONGEST_S = 5.0  # between two renewals
LAST_RENEWAL_S = 5.0  # the longest wait for a renewal in progress, at the end


class HeldLease:
    """A lease that this process holds. `check` costs nothing, `confirm` asks the store."""

    def __init__(self, what: str, renew: Callable[[], bool], stop: threading.Event | None) -> None:
        self._what = what
        self._renew = renew
        self._stop = stop
        self.lost = threading.Event()

    def check(self) -> None:
        """Raise LeaseLost if the lease was lost, or if the process has to stop. Then nothing more may begin."""
        if self.lost.is_set():
            raise LeaseLost(f"{self._what} was taken over by another process, or ended")
        if self._stop is not None and self._stop.is_set():
            raise LeaseLost(f"{self._what} is given back, since its worker stops")

    def confirm(self) -> None:
        """Renew the lease now, before a write that no fence guards, such as a file's.

        Raises LeaseLost and StorageError.
        """
        self.check()
        if not self._renew():
            self.lost.set()
        self.check()

    def along(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items as long as the lease holds; after the last one the store has confirmed it."""
        for item in items:
            self.check()
            yield item
        self.confirm()

    def keep(self, every_s: float, done: threading.Event) -> None:
        """Renew until `done`, or until the lease is lost. If the store is unreachable, try again."""
        while not done.wait(every_s):
            try:
                if not self._renew():
                    log.warning("lease_lost what=%r", self._what)
                    self.lost.set()
                    return
            except StorageError as error:
                log.warning("renewal_failed what=%r error=%s", self._what, error)


@contextmanager
def hold_lease(
    what: str, renew: Callable[[], bool], lease_s: float, *, stop: threading.Event | None = None
) -> Iterator[HeldLease]:
    """Renew a lease for the length of the block. `renew` returns False if the lease is lost.

    `what` names the held row in messages. Once `stop` is set, `HeldLease.check` raises LeaseLost.
    """
    held, done = HeldLease(what, renew, stop), threading.Event()
    every_s = min(LONGEST_S, lease_s / 6)
    thread = threading.Thread(target=held.keep, args=(every_s, done), name="renewal", daemon=True)
    try:
        thread.start()
        yield held
    finally:
        done.set()
        if thread.is_alive():
            thread.join(LAST_RENEWAL_S)


def command_of(module: str) -> list[str]:
    """Return the command that runs a module of docmill in a new process, from any working folder."""
    return [sys.executable, "-P", "-m", "docmill", module]


def run_child(module: str, order: bytes, stderr: int | None = None) -> subprocess.CompletedProcess[bytes]:
    """Have one of docmill's modules carry out an order in a new process."""
    return subprocess.run(command_of(module), input=order, stdout=subprocess.PIPE, stderr=stderr, check=False)


def answer_parent(answer: object) -> NoReturn:
    """Write a child's answer on a line of its own, and end the process without waiting for threads of libraries."""
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
    sys.stdout.flush()
    os._exit(0)


def pid_space() -> str | None:
    """Return an identifier of this process's PID namespace; None if the system does not give it.

    It names a boot of a kernel and a namespace in it, so that two containers on a host have two identifiers.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return None
    return f"{boot} {namespace}"


def is_gone(pid: int) -> bool:
    """Return True if no process of this PID namespace has this number. A reused number counts as the old process.

    A zombie is gone, too: its parent may have died first, and the first process of a container seldom reaps.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _is_dead(pid)


def _is_dead(pid: int) -> bool:
    try:
        facts = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except FileNotFoundError:  # it went just now, or the system has no /proc
        return Path("/proc/self/stat").exists()
    except OSError:
        return False
    state = facts.rpartition(")")[2].split()[0]  # the name before it may hold anything
    return state in {"Z", "X"}
