"""Values that are made on a thread of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import repeat
from queue import Queue

import pytest

from docmill.storage.errors import DatabaseUnreachable, LeaseLost
from docmill.worker.concurrency import NAME, hold_lease, is_prefetch_blocked, prefetch
from tests.worker.harness import until


def test_values_come_in_their_order() -> None:
    assert list(prefetch(range(100))) == list(range(100))


def test_what_the_making_raises_comes_after_the_values_before_it() -> None:
    def values() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    found = prefetch(values())
    assert next(found) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(found)


def test_whoever_stops_early_has_few_values_made_in_vain() -> None:
    made = []
    over = threading.Event()

    def values() -> Iterator[int]:
        try:
            for number in range(1_000):
                made.append(number)
                yield number
        finally:
            over.set()

    found = prefetch(values())
    assert next(found) == 0
    found.close()  # type: ignore[attr-defined]
    assert over.wait(60)
    assert len(made) <= 4


@pytest.fixture
def interrupted_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt whoever starts a thread."""
    start = threading.Thread.start

    def start_and_interrupt(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)


@pytest.mark.usefixtures("interrupted_starts")
def test_an_interrupt_as_the_thread_starts_ends_it() -> None:
    over = threading.Event()

    def values() -> Iterator[None]:
        try:
            yield from repeat(None)
        finally:
            over.set()

    with pytest.raises(KeyboardInterrupt):
        next(prefetch(values()))
    assert over.wait(WITHIN_S)


def test_the_end_of_a_command_does_not_wait_for_a_thread_that_has_not_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.Thread(name=NAME)])
    assert not is_prefetch_blocked()


WITHIN_S = 60.0


class Renewals:
    """Renews as it is told; a store that is away is told by None."""

    def __init__(self, *answers: bool | None) -> None:
        self._answers: Queue[bool | None] = Queue()
        for answer in answers:
            self.answer(answer)
        self.asked = threading.Semaphore(0)

    def answer(self, answer: bool | None) -> None:
        """Give the next renewal an answer. Without one the lease is renewed."""
        self._answers.put(answer)

    def __call__(self) -> bool:
        answer = True if self._answers.empty() else self._answers.get()
        self.asked.release()
        if answer is None:
            raise DatabaseUnreachable
        return answer


def test_a_lease_is_renewed_for_as_long_as_the_work_goes_on() -> None:
    renewals = Renewals()
    with hold_lease("run 1", renewals, 0.06) as held:
        for _ in range(3):
            assert renewals.asked.acquire(timeout=WITHIN_S)
        held.check()
    until(lambda: "renewal" not in {thread.name for thread in threading.enumerate()}, "nobody renews it any more")


@pytest.mark.usefixtures("interrupted_starts")
def test_an_interrupt_as_the_renewal_begins_ends_it() -> None:
    with pytest.raises(KeyboardInterrupt), hold_lease("run 1", Renewals(), 60.0):
        pass
    assert "renewal" not in {thread.name for thread in threading.enumerate()}


def test_whoever_lost_its_lease_stops_before_the_next_item() -> None:
    renewals = Renewals()
    with hold_lease("run 1", renewals, 0.06) as held:
        items = held.along(range(3))
        assert next(items) == 0
        renewals.answer(False)
        assert held.lost.wait(WITHIN_S)
        with pytest.raises(LeaseLost, match="run 1 was taken over by another process"):
            next(items)


def test_a_lease_that_was_lost_meanwhile_is_found_lost_after_the_last_item() -> None:
    done: list[int] = []
    with hold_lease("run 1", Renewals(False), 3_600.0) as held, pytest.raises(LeaseLost):
        done.extend(held.along(range(3)))
    assert done == [0, 1, 2], "all were done, and the one who did them is told before it says so"
    with hold_lease("run 1", Renewals(True), 3_600.0) as held:
        assert [*held.along(range(3))] == [0, 1, 2]


def test_a_store_that_is_away_costs_nobody_the_lease() -> None:
    renewals = Renewals(None, None, True)
    with hold_lease("run 1", renewals, 0.06) as held:
        for _ in range(3):
            assert renewals.asked.acquire(timeout=WITHIN_S)
        held.check()


def test_whoever_is_told_to_stop_begins_nothing_more() -> None:
    stop = threading.Event()
    with hold_lease("run 1", Renewals(), 3_600.0, stop=stop) as held:
        held.check()
        stop.set()
        with pytest.raises(LeaseLost, match="its worker stops"):
            held.check()
