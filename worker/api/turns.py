"""Runs of one process take turns: they would share its devices, and the lines above one bar."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from docmill.worker.api.errors import Error


class Turns:
    """A lock that refuses a run whose own documents ask for it: it would wait for itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: set[int] = set()  # threads that run, or read the documents of a run

    def __enter__(self) -> None:
        if threading.get_ident() in self._inside:
            raise Error("documents cannot run docmill while a run reads them: compute them first, as a list")
        self._lock.acquire()
        self._inside.add(threading.get_ident())

    def __exit__(self, *error: object) -> None:
        self._inside.remove(threading.get_ident())
        self._lock.release()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count this thread to the run whose documents it reads."""
        mine = threading.get_ident()
        if mine in self._inside:
            yield
            return
        self._inside.add(mine)
        try:
            yield
        finally:
            self._inside.discard(mine)


one_run_at_a_time = Turns()
