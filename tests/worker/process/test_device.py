"""The parts of a device process, put together."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from celery.worker import state
from kombu.asynchronous import Hub, get_event_loop, set_event_loop

from docmill.worker.process import device
from docmill.worker.process.device import WakingThreadPool
from docmill.worker.process.device_start import DeviceConfig
from docmill.worker.queue.broker import Broker, RewritingRedis
from docmill.worker.settings import load_settings


@pytest.mark.both_stores
def test_no_thread_of_a_device_process_can_take_the_connection_of_its_heartbeats(
    database_url: str, tmp_path: Path
) -> None:
    urls = {"database_url": database_url, "redis_url": "redis://127.0.0.1:1"}
    settings = load_settings(home=tmp_path / "home", threads=1, **urls)
    config = DeviceConfig("me", "cpu", {})
    process = device._make_process(config, settings, Broker("redis://127.0.0.1:1"), lambda *_, **__: None)
    pool: Any = process.database.engine.pool
    with ExitStack() as until_closed:
        for part in (process.engine, process.heartbeat_database, process.database):
            until_closed.callback(part.close)
        with ExitStack() as held:
            for _ in range(2 * pool.size()):  # those beyond its size, too
                held.enter_context(process.database.read())
            process.heartbeat(consumes=True)
        for used in (process.database, process.heartbeat_database) if process.database.server is not None else ():
            with used.read() as transaction:
                limit = transaction.exec_driver_sql("SHOW statement_timeout").scalar_one()
            assert limit == "32s", "its statements are short by nature"


@pytest.fixture
def waits() -> Iterator[threading.Semaphore]:
    """A semaphore that is released when an event loop begins to wait. The loop waits until it is woken."""
    old_loop, hub, over, waits = get_event_loop(), Hub(), threading.Event(), threading.Semaphore(0)
    set_event_loop(hub)
    silent = socket.socketpair()
    hub.add_reader(silent[0], lambda: None)  # without anything to listen to a loop looks ten times a second
    poll = hub.poller.poll

    def wait(_: float | None) -> Any:
        waits.release()
        return poll(None)

    hub.poller.poll = wait

    def run() -> None:
        loop = hub.create_loop()
        while not over.is_set():
            next(loop)

    thread = threading.Thread(target=run)
    thread.start()
    yield waits
    over.set()
    hub.call_soon(lambda: None)
    thread.join(10)
    hub.close()
    for end in silent:
        end.close()
    set_event_loop(old_loop)


def test_a_thread_that_is_free_again_wakes_the_loop(waits: threading.Semaphore) -> None:
    hands = WakingThreadPool(limit=1)
    hands.start()
    may_end = threading.Event()
    hands.on_apply(lambda *_, **__: may_end.wait(60), (), {}, lambda _: None, None)
    assert waits.acquire(timeout=60)
    may_end.set()
    assert waits.acquire(timeout=60), "the loop still waits"
    hands.stop()


def test_a_process_whose_threads_all_work_on_messages_consumes_although_it_asks_for_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model that is loaded, or a source that is read, may keep a thread for longer than a probe's patience."""
    monkeypatch.setattr(RewritingRedis, "heard_at", -math.inf)
    assert not device._consumes(60.0)
    monkeypatch.setattr(state, "active_requests", {"a hint"})
    assert device._consumes(60.0)


def test_a_process_that_drains_asks_for_no_message_while_its_batch_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "should_stop", None)
    states: list[object] = []
    device._drain(cast(Any, SimpleNamespace(drain=lambda: states.append(state.should_stop))))
    assert states == [0]
