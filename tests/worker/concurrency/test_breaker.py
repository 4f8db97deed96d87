"""The breaker holds back writes while the store refuses them."""

from __future__ import annotations

from threading import Event

import pytest

from docmill.storage.errors import DatabaseUnreachable, LeaseLost, StorageError, UnexpectedDatabaseError
from docmill.worker.concurrency.breaker import FIRST_S, LONGEST_S, Breaker, CircuitOpen
from tests.storage.builders import at_once
from tests.worker.harness import until


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock)


def write(breaker: Breaker, error: Exception | None = None) -> None:
    with breaker.attempt():
        if error is not None:
            raise error


def refused(breaker: Breaker, why: str = "the archive is closed") -> None:
    with pytest.raises(UnexpectedDatabaseError):
        write(breaker, UnexpectedDatabaseError(why))


def wait_s(breaker: Breaker) -> float:
    """Return the seconds that the next write has to wait."""
    with pytest.raises(CircuitOpen) as caught:
        write(breaker)
    return caught.value.wait_s


def test_writes_pass_until_one_is_refused_and_then_wait(breaker: Breaker, clock: Clock) -> None:
    write(breaker)
    refused(breaker)
    assert breaker.trouble == "the archive is closed"
    assert wait_s(breaker) == FIRST_S
    clock.now += FIRST_S
    write(breaker)
    assert not breaker.trouble
    write(breaker)


def test_refusals_in_a_row_are_ever_longer_apart_up_to_a_bound(breaker: Breaker, clock: Clock) -> None:
    waits = []
    for _ in range(9):
        refused(breaker)
        waits.append(wait_s(breaker))
        clock.now += waits[-1]
    assert waits[:4] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S]
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_S
    write(breaker)
    refused(breaker)
    assert wait_s(breaker) == FIRST_S, "what passed is forgotten"


def test_one_write_at_a_time_asks_whether_the_store_takes_them_again(breaker: Breaker, clock: Clock) -> None:
    refused(breaker)
    clock.now += FIRST_S
    inside, leave = Event(), Event()

    def ask() -> None:
        with breaker.attempt():
            inside.set()
            assert leave.wait(60)

    def others() -> None:
        assert inside.wait(60)
        assert wait_s(breaker) > 0
        leave.set()

    at_once(ask, others)
    write(breaker)


def test_writes_that_were_under_way_when_one_was_refused_count_as_that_one(breaker: Breaker, clock: Clock) -> None:
    def fail(n: int) -> None:
        with breaker.attempt():
            begun.append(n)
            until(lambda: len(begun) == 4, "all are under way")
            raise UnexpectedDatabaseError

    begun: list[int] = []

    def try_(n: int) -> None:
        with pytest.raises(UnexpectedDatabaseError):
            fail(n)

    at_once(*[lambda n=n: try_(n) for n in range(4)])
    assert wait_s(breaker) == FIRST_S


def test_a_store_that_is_away_opens_nothing_and_settles_nothing(breaker: Breaker, clock: Clock) -> None:
    with pytest.raises(DatabaseUnreachable):
        write(breaker, DatabaseUnreachable())
    write(breaker)
    refused(breaker)
    clock.now += FIRST_S
    with pytest.raises(DatabaseUnreachable):
        write(breaker, DatabaseUnreachable())
    assert breaker.trouble is not None
    write(breaker)
    assert not breaker.trouble


def test_a_lost_lease_is_an_answer_of_a_store_that_works(breaker: Breaker, clock: Clock) -> None:
    refused(breaker)
    clock.now += FIRST_S
    with pytest.raises(LeaseLost):
        write(breaker, LeaseLost())
    assert not breaker.trouble


def test_a_bug_in_the_one_that_asks_leaves_the_question_to_the_next(breaker: Breaker, clock: Clock) -> None:
    refused(breaker)
    clock.now += FIRST_S
    with pytest.raises(ZeroDivisionError):
        write(breaker, ZeroDivisionError())
    write(breaker)


def test_an_open_circuit_is_an_error_of_the_store_with_its_words(breaker: Breaker) -> None:
    refused(breaker, "no more room for rows")
    with pytest.raises(StorageError, match="no more room for rows"):
        write(breaker)
