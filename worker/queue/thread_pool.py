"""Celery's thread pool, with one shard per thread. A finished thread wakes Celery's loop at once."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from celery.concurrency.thread import ApplyResult, TaskPool
from kombu.asynchronous import get_event_loop


class WakingThreadPool(TaskPool):  # type: ignore[misc]
    """While all threads are busy Celery asks for no message, and nothing tells it of the first that is free again: it
    would look once a second."""

    def on_apply(self, *args: Any, **kwargs: Any) -> ApplyResult:
        result = super().on_apply(*args, **kwargs)
        result.f.add_done_callback(_wake)
        return result


def wake() -> None:
    """Have Celery's loop take another turn at once, in which it sees that it is to stop. Any thread may call it."""
    loop = get_event_loop()
    if loop is not None:  # none any more at the end
        loop.call_soon(_look)


def _wake(_: Future[Any]) -> None:
    wake()


def _look() -> None:
    """Nothing but another turn of the loop, which asks for messages as it begins."""
