"""Values that a thread makes ahead, and leases that a thread renews."""

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


def test_an_error_of_an_iterator_comes_after_the_values_before_it() -> None:
    def values() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    results = prefetch(values())
    assert next(results) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)


def test_few_values_are_made_in_vain_when_iteration_stops_early() -> None:
    numbers = []
    over = threading.Event()

    def values() -> Iterator[int]:
        try:
            for number in range(1_000):
                numbers.append(number)
                yield number
        finally:
            over.set()

    results = prefetch(values())
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert over.wait(60)
    assert len(numbers) <= 4


@pytest.fixture
def interrupted_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise KeyboardInterrupt as a thread starts."""
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
    """Renews with scripted answers. None stands for a store that is away."""

    def __init__(self, *answers: bool | None) -> None:
        self._answers: Queue[bool | None] = Queue()
        for answer in answers:
            self.answer(answer)
        self.requests = threading.Semaphore(0)

    def answer(self, answer: bool | None) -> None:
        """Give the next renewal an answer. Without one the lease is renewed."""
        self._answers.put(answer)

    def __call__(self) -> bool:
        answer = True if self._answers.empty() else self._answers.get()
        self.requests.release()
        if answer is None:
            raise DatabaseUnreachable
        return answer


def test_a_lease_is_renewed_for_as_long_as_the_work_goes_on_also_after_the_store_was_away() -> None:
    renewals = Renewals(None, None, True)
    with hold_lease("run 1", renewals, 0.06) as held:
        for _ in range(3):
            assert renewals.requests.acquire(timeout=WITHIN_S)
        held.check()
    until(lambda: "renewal" not in {thread.name for thread in threading.enumerate()}, "nobody renews it any more")


@pytest.mark.usefixtures("interrupted_starts")
def test_an_interrupt_as_the_renewal_begins_ends_it() -> None:
    with pytest.raises(KeyboardInterrupt), hold_lease("run 1", Renewals(), 60.0):
        pass
    assert "renewal" not in {thread.name for thread in threading.enumerate()}


def test_a_lost_lease_stops_work_before_the_next_item() -> None:
    renewals = Renewals()
    with hold_lease("run 1", renewals, 0.06) as held:
        items = held.along(range(3))
        assert next(items) == 0
        renewals.answer(False)
        assert held.lost.wait(WITHIN_S)
        with pytest.raises(LeaseLost, match="run 1 was taken over by another process"):
            next(items)


def test_a_lease_is_checked_after_the_last_item() -> None:
    items: list[int] = []
    with hold_lease("run 1", Renewals(False), 3_600.0) as held, pytest.raises(LeaseLost):
        items.extend(held.along(range(3)))
    assert items == [0, 1, 2], "all were done, and the one who did them is told before it says so"
    with hold_lease("run 1", Renewals(True), 3_600.0) as held:
        assert [*held.along(range(3))] == [0, 1, 2]


def test_work_that_is_told_to_stop_begins_nothing_more() -> None:
    stop = threading.Event()
    with hold_lease("run 1", Renewals(), 3_600.0, stop=stop) as held:
        held.check()
        stop.set()
        with pytest.raises(LeaseLost, match="its worker stops"):
            held.check()
