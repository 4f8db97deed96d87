"""Ctrl-C, also where Python drops it.

A signal's handler runs between two instructions of whatever code runs. In a callback of the garbage collector, or
as an object is deleted, Python prints the KeyboardInterrupt and goes on: the command would not stop. SQLAlchemy logs
one that arrives as a connection goes back to its pool, with a traceback, and raises it again.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading

AGAIN_S = 0.05  # by then the callback is over
_POOLS = ("sqlalchemy.pool.impl.QueuePool", "sqlalchemy.pool.impl.NullPool")  # the loggers of SQLAlchemy's pools


def repeat_dropped_interrupts() -> None:
    """Let each KeyboardInterrupt that Python drops from now on be raised again in the main thread."""
    sys.unraisablehook = _repeat


def leave_interrupts_unlogged() -> None:
    """Let SQLAlchemy's pools log no KeyboardInterrupt from now on; they raise it all the same."""
    for name in _POOLS:
        logging.getLogger(name).addFilter(_is_no_interrupt)


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


def _is_no_interrupt(record: logging.LogRecord) -> bool:
    raised = record.exc_info[0] if record.exc_info else None
    return raised is None or not issubclass(raised, KeyboardInterrupt)
