"""A circuit breaker for writes to the store: while they are refused, only one at a time is tried, ever more rarely.

A store that is away, locked or full does not open it: that passes by itself, and every thread may try.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from docmill.storage.errors import DatabaseBusy, DatabaseUnreachable, LeaseLost, StorageError

FIRST_S = 1.0
LONGEST_S = 30.0
TURN_S = 0.5  # between two looks at how another's try ends


class CircuitOpen(StorageError):
    """The store refused a write lately; the next one may be tried in `wait_s` seconds."""

    def __init__(self, wait_s: float, trouble: str) -> None:
        super().__init__(trouble)
        self.wait_s = wait_s


class Breaker:
    """Safe to share by threads. `trouble` is the store's last refusal; None while it takes what it is given."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._retry_at = 0.0
        self._is_tried = False
        self.trouble: str | None = None

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Guard one write. Raises CircuitOpen where it may not be tried now, and whatever the write raises."""
        self._admit()
        try:
            yield
        except LeaseLost:  # the store's answer, and a sound one
            self._close()
            raise
        except (DatabaseBusy, DatabaseUnreachable):
            self._end_of_turn()
            raise
        except StorageError as error:
            self._open(str(error))
            raise
        except BaseException:
            self._end_of_turn()
            raise
        else:
            self._close()

    def _admit(self) -> None:
        with self._lock:
            if self.trouble is None:
                return
            wait_s = self._retry_at - self._clock()
            if wait_s > 0 or self._is_tried:
                raise CircuitOpen(max(wait_s, TURN_S), self.trouble)
            self._is_tried = True

    def _close(self) -> None:
        with self._lock:
            self.trouble, self._failures, self._is_tried = None, 0, False

    def _open(self, trouble: str) -> None:
        with self._lock:
            # Writes that were under way when the first one failed say nothing new.
            if self.trouble is None or self._is_tried:
                self._retry_at = self._clock() + min(LONGEST_S, FIRST_S * 2.0**self._failures)
                self._failures += 1
            self.trouble, self._is_tried = trouble, False

    def _end_of_turn(self) -> None:
        with self._lock:
            self._is_tried = False
