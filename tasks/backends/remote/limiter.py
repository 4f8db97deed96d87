"""The limit of requests at a time: it rises while the server's throughput grows, and is halved by an overload.

Additive increase and multiplicative decrease, as in TCP (Chiu and Jain 1989), after a start in which the limit
doubles. Latency is no sign of overload: with larger batches a server answers each request later, and all of them
sooner. The limit stops rising when a rise adds little to the throughput. By Little's law, a higher limit would then
only raise the latency.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

START = 16
# A doubled limit stays if it raises the throughput by this factor; a smaller rise needs a smaller factor.
_DOUBLED_GAIN = 1.10
_RISE = 0.25
_RISE_GAIN = 1.04
_WORSE = 0.85
_LEAST_ANSWERS = 8
# Epochs until a settled limit rises again, in case the server has more capacity now.
_SETTLED = 10


class Limiter:
    """Limits the requests at a time, in one event loop.

    An epoch ends after about as many answers as the limit. Its throughput counts only if all places were taken. The
    epoch after a change of the limit does not count, since it has requests from before the change.
    """

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self.limit = min(START, most)
        self.active = 0  # requests at the server
        self._most = most
        self._clock = clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._paused_until = clock()
        self._doubles = True
        self._before: tuple[int, float] | None = None  # the limit before the last rise, and its throughput
        self._quiet = 0  # epochs since the limit was settled
        self._changes = 0
        # Of the epoch: the answers, the start, True if all places were taken so far, False if it does not count.
        self._answers, self._began, self._full, self._measured = 0, clock(), True, True

    @asynccontextmanager
    async def place(self) -> AsyncIterator[int]:
        """Wait for a place and the end of a pause, and hold the place during the block.

        Yields the number of changes of the limit so far.
        """
        while True:
            if (pause_s := self._paused_until - self._clock()) > 0:
                await asyncio.sleep(min(pause_s, 1.0))
            elif self.active >= self.limit:
                await self._wait()
            else:
                break
        self.active += 1
        try:
            yield self._changes
        finally:
            self.active -= 1
            self._wake()

    def pause(self, seconds: float) -> None:
        """Begin no request for so many seconds."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def answered(self) -> None:
        """Count an answer, and set the limit at the end of an epoch."""
        self._answers += 1
        self._full = self._full and bool(self._waiting)
        if self._answers < max(_LEAST_ANSWERS, self.limit):
            return
        seconds = self._clock() - self._began
        rate = self._answers / seconds if self._measured and self._full and seconds > 0 else None
        self._begin(measured=True)
        if rate is not None:
            self._judge(rate)

    def overloaded(self, changes: int) -> None:
        """Halve the limit, once for all requests that began under it. ``changes`` is the number from ``place``."""
        if changes != self._changes:
            return
        self._doubles, self._before, self._quiet = False, None, 0
        self._set(max(1, self.limit // 2))

    def _judge(self, rate: float) -> None:
        before, self._before = self._before, None
        if before is not None and rate < before[1] * (_DOUBLED_GAIN if self._doubles else _RISE_GAIN):
            # A doubled limit stays: too many requests cost latency, too few cost throughput.
            back = not self._doubles or rate < before[1] * _WORSE
            self._doubles, self._quiet = False, 0
            if back:
                self._set(before[0])
            return
        if before is None and not self._doubles:
            self._quiet += 1
            if self._quiet < _SETTLED:
                return
        if self.limit < self._most:
            self._before = (self.limit, rate)
            rise = self.limit if self._doubles else max(1, int(self.limit * _RISE))
            self._set(min(self._most, self.limit + rise))

    def _set(self, limit: int) -> None:
        self.limit = limit
        self._changes += 1
        self._begin(measured=False)
        self._wake()

    def _begin(self, *, measured: bool) -> None:
        self._answers, self._began, self._full, self._measured = 0, self._clock(), True, measured

    async def _wait(self) -> None:
        mine = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # give its place to another request
                self._wake()
            raise

    def _wake(self) -> None:
        free = self.limit - self.active
        while free > 0 and self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                free -= 1
