"""An iterator's next values, made on a thread of their own while the last one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

NAME = "read-ahead"
DEPTH = 1  # values that wait; one more is being made


@dataclass(frozen=True)
class _Value(Generic[T]):
    value: T


def ahead(values: Iterable[T]) -> Iterator[T]:
    """The same values in the same order; what their making raises is raised here, after those before it.

    At most two values are ahead of the one in use. When the caller stops early, the thread makes no further one.
    """
    ready: queue.Queue[_Value[T] | BaseException | None] = queue.Queue(DEPTH)
    stopped = threading.Event()

    def put(item: _Value[T] | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def make() -> None:
        try:
            for value in values:
                put(_Value(value))
                if stopped.is_set():
                    return
        except BaseException as error:  # for the caller, whatever it is
            put(error)
        else:
            put(None)

    # A daemon: a source that is a pipe may keep it waiting for ever.
    threading.Thread(target=make, name=NAME, daemon=True).start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item.value
    finally:
        stopped.set()


def still_waits() -> bool:
    """Return True if a prefetching thread is still blocked by its source after its values are no longer wanted."""
    waiting = [thread for thread in threading.enumerate() if thread.name == NAME]
    for thread in waiting:
        thread.join(1.0)
    return any(thread.is_alive() for thread in waiting)
