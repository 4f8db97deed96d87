"""Celery's loop hears of a free thread at once, and not at its next look a second later."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from kombu.asynchronous import Hub, get_event_loop, set_event_loop

from worker.hands import Hands


@pytest.fixture
def turns() -> Iterator[list[float]]:
    """When a loop that waits for nothing else began its turns."""
    before, hub, found, ended = get_event_loop(), Hub(), list[float](), threading.Event()
    set_event_loop(hub)
    silent = socket.socketpair()
    hub.add_reader(silent[0], lambda: None)  # without anything to listen to a loop looks ten times a second
    hub.on_tick.add(lambda: found.append(time.monotonic()))

    def run() -> None:
        loop = hub.create_loop()
        while not ended.is_set():
            next(loop)

    thread = threading.Thread(target=run)
    thread.start()
    yield found
    ended.set()
    thread.join(10)
    hub.close()
    for end in silent:
        end.close()
    set_event_loop(before)


def test_a_thread_that_is_free_again_wakes_the_loop(turns: list[float]) -> None:
    hands = Hands(limit=1)
    hands.start()
    may_end = threading.Event()
    hands.on_apply(lambda *_, **__: may_end.wait(10), (), {}, lambda _: None, None)
    while not turns:
        time.sleep(0.01)
    while time.monotonic() - turns[-1] < 0.2:  # the loop waits
        time.sleep(0.01)
    freed = time.monotonic()
    may_end.set()
    while turns[-1] < freed:
        time.sleep(0.01)
    hands.stop()
    assert turns[-1] - freed < 0.3


def test_a_thread_that_ends_after_the_loop_wakes_nobody(caplog: pytest.LogCaptureFixture) -> None:
    assert get_event_loop() is None
    hands = Hands(limit=1)
    hands.start()
    done = threading.Event()
    hands.on_apply(lambda *_, **__: None, (), {}, lambda _: done.set(), None)
    assert done.wait(10)
    hands.stop()  # waits for the thread
    assert not caplog.records, "what the callback of a future raises is only logged"
