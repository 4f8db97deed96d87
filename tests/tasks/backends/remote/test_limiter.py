"""The limit of concurrent requests adapts to a server, in simulated time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable

import pytest

from docmill.tasks.backends.remote.limiter import START, Limiter

MOST = 256


class SimulatedTime(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = selectors.SelectSelector()
        super().__init__(selector)
        select = selector.select

        def jump(timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            if timeout is not None and timeout > 0:
                self.now += timeout
            return select(0 if timeout is not None else None)

        selector.select = jump  # type: ignore[method-assign]

    def time(self) -> float:
        return self.now


def simulate(work: Callable[[Limiter, SimulatedTime], Awaitable[None]]) -> Limiter:
    """Return a limiter after some work in simulated time."""
    loop = SimulatedTime()
    limiter = Limiter(MOST, loop.time)
    try:
        loop.run_until_complete(asyncio.wait_for(work(limiter, loop), 1e9))
    finally:
        loop.close()
    return limiter


async def send(limiter: Limiter, requests: int, latency_s: Callable[[int], float]) -> None:
    """Send requests to a server whose latency depends on the number of concurrent requests."""

    async def send_one() -> None:
        async with limiter.place():
            await asyncio.sleep(latency_s(limiter.active))
            limiter.answered()

    await asyncio.gather(*(send_one() for _ in range(requests)))


@pytest.mark.parametrize("at_a_time", [4, 16, 50, 100])
def test_the_limit_settles_where_more_requests_add_nothing(at_a_time: int) -> None:
    """The server computes ``at_a_time`` requests in a second; more requests wait in its queue."""
    limiter = simulate(lambda limiter, _: send(limiter, 6_000, lambda active: max(1.0, active / at_a_time)))
    assert min(START, at_a_time) <= limiter.limit <= 4 * max(START, at_a_time)
    assert limiter.limit >= at_a_time


def test_the_throughput_of_a_server_that_batches_is_that_of_its_best_limit() -> None:
    """Each concurrent request raises latency and throughput. The limit must not stop rising for latency alone."""
    seconds = {}

    def latency_s(active: int) -> float:
        return 1 + active / 40

    async def work(limiter: Limiter, loop: SimulatedTime) -> None:
        await send(limiter, 10_000, latency_s)
        seconds["ours"] = loop.now

    limiter = simulate(work)
    best = min(10_000 / limit * latency_s(limit) for limit in range(1, MOST + 1))
    assert limiter.limit >= 128
    assert seconds["ours"] < best / 0.9


def test_an_overload_halves_the_limit_once_for_requests_that_began_together() -> None:
    limits = []

    async def work(limiter: Limiter, _loop: SimulatedTime) -> None:
        async def refused() -> None:
            async with limiter.place() as changes:
                await asyncio.sleep(1)
                limiter.overloaded(changes)
                limits.append(limiter.limit)

        await asyncio.gather(*(refused() for _ in range(START)))
        assert limits == [START // 2] * START
        await refused()

    assert simulate(work).limit == START // 4


def test_no_request_begins_during_a_pause_of_the_server() -> None:
    begun = []

    async def work(limiter: Limiter, loop: SimulatedTime) -> None:
        async def begin() -> None:
            async with limiter.place():
                begun.append(loop.time())

        limiter.pause(30.0)
        limiter.pause(10.0)
        await asyncio.gather(*(begin() for _ in range(100)))

    simulate(work)
    assert len(begun) == 100
    assert min(begun) >= 30.0


def test_a_request_that_is_given_up_leaves_its_place_to_another() -> None:
    answered = []

    async def work(limiter: Limiter, _loop: SimulatedTime) -> None:
        limiter.limit = 1

        async def answer(number: int) -> None:
            async with limiter.place():
                await asyncio.sleep(1)
                answered.append(number)

        tasks = [asyncio.ensure_future(answer(number)) for number in range(4)]
        await asyncio.sleep(0.5)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    simulate(work)
    assert answered == [0, 2, 3]
