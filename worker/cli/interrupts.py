"""Ctrl-C, also where Python drops it.

A signal's handler runs between two instructions of whatever code runs. In a callback of the garbage collector, or
as an object is deleted, Python prints the KeyboardInterrupt and goes on: the command would not stop.
"""

from __future__ import annotations

import signal
import sys
import threading

AGAIN_S = 0.05  # by then the callback is over


def repeat_dropped_interrupts() -> None:
    """Let each KeyboardInterrupt that Python drops from now on be raised again in the main thread."""
    sys.unraisablehook = _repeat


def stop_as_interrupt() -> None:
    """Take a service manager's stop (SIGTERM) for a Ctrl-C from now on."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _repeat(dropped: sys.UnraisableHookArgs) -> None:
    if not issubclass(dropped.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)
        return
    # A shell starts background commands with SIGINT ignored; then a SIGTERM was dropped.
    number = signal.SIGINT if callable(signal.getsignal(signal.SIGINT)) else signal.SIGTERM
    # Sent to the main thread itself, which may wait for a lock by then.
    again = threading.Timer(AGAIN_S, signal.pthread_kill, [threading.main_thread().ident, number])
    again.daemon = True
    again.start()
