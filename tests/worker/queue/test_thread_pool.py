"""Celery's loop hears of a free thread at once, and not at its next look a second later."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kombu.asynchronous import Hub, get_event_loop, set_event_loop

from docmill.worker.queue.thread_pool import WakingThreadPool, wake


@pytest.fixture
def waits() -> Iterator[threading.Semaphore]:
    """Released each time that a loop begins to wait; it waits until something wakes it, and not for a second."""
    before, hub, ended, found = get_event_loop(), Hub(), threading.Event(), threading.Semaphore(0)
    set_event_loop(hub)
    silent = socket.socketpair()
    hub.add_reader(silent[0], lambda: None)  # without anything to listen to a loop looks ten times a second
    poll = hub.poller.poll

    def wait(_: float | None) -> Any:
        found.release()
        return poll(None)

    hub.poller.poll = wait

    def run() -> None:
        loop = hub.create_loop()
        while not ended.is_set():
            next(loop)

    thread = threading.Thread(target=run)
    thread.start()
    yield found
    ended.set()
    hub.call_soon(lambda: None)
    thread.join(10)
    hub.close()
    for end in silent:
        end.close()
    set_event_loop(before)


def test_a_thread_that_is_free_again_wakes_the_loop(waits: threading.Semaphore) -> None:
    hands = WakingThreadPool(limit=1)
    hands.start()
    may_end = threading.Event()
    hands.on_apply(lambda *_, **__: may_end.wait(10), (), {}, lambda _: None, None)
    assert waits.acquire(timeout=10)
    may_end.set()
    assert waits.acquire(timeout=10), "the loop still waits"
    hands.stop()


def test_a_loop_that_is_woken_takes_another_turn(waits: threading.Semaphore) -> None:
    assert waits.acquire(timeout=10)
    wake()
    assert waits.acquire(timeout=10), "the loop still waits"


def test_a_thread_that_ends_after_the_loop_wakes_nobody(caplog: pytest.LogCaptureFixture) -> None:
    assert get_event_loop() is None
    hands = WakingThreadPool(limit=1)
    hands.start()
    done = threading.Event()
    hands.on_apply(lambda *_, **__: None, (), {}, lambda _: done.set(), None)
    assert done.wait(10)
    hands.stop()  # waits for the thread
    assert not caplog.records, "what the callback of a future raises is only logged"
