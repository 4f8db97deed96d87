"""The batch size in tokens and the rate of a backend, both measured. The size is remembered.

Large batches keep a GPU's units busy, but leave a CPU's caches. The smallest batch wins unless a larger batch is
clearly faster.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import TypeVar

from docmill.tasks.backends import Assignment, WindowSource, machine
from docmill.tasks.backends.machine import recall, remember
from docmill.tasks.backends.static import Items, StaticLoop
from docmill.tasks.batching import Budget, Item, Pool
from docmill.tasks.errors import OutOfMemory
from docmill.tasks.outputs import Output
from docmill.tasks.windows.windows import Coder, Encoded

Option = TypeVar("Option")
# The share of a full batch that may be padding. More padding costs more than another batch; less makes too many small
# batches (bench/results/diary.md).
_PADDING = 0.02
BUDGETS = {
    "cpu": Budget(tokens=2048, rows=64, padding=_PADDING),
    "cuda": Budget(tokens=65_536, rows=1024, padding=_PADDING),
}
# The sizes in tokens to measure when a model is opened on a device for the first time.
SIZES = {"cpu": (1024, 2048, 4096), "cuda": (16_384, 32_768, 65_536, 131_072, 262_144)}
_WARM_UP_WORDS = 48
_SAMPLE = ["word " * words for words in range(4, 196, 3)]  # texts whose windows measure a backend's rate
_TRIES = 3
MEASURING_S = 0.5  # for all sizes, if the next size takes no longer than expected
CLEARLY_FASTER = 1.05
_SHORTEST_TOKENS = 8  # the bound of rows lets a batch of windows this short fill its tokens


class WarmUp:
    """Measures batch sizes of a loop with copies of a window, and chooses the loop's budget."""

    def __init__(self, loop: StaticLoop, window: Encoded, clock: Callable[[], float] = time.perf_counter) -> None:
        self._loop = loop
        self._window = window
        self._clock = clock

    def tune(self, assignment: Assignment, backend: str) -> None:
        """Set the loop's budget to the best for an assignment's weights and precision on its device."""
        spec, device, cache_dir = assignment.spec, assignment.device, assignment.cache_dir
        subject = f"{spec.revision} {spec.quality} {backend} {machine.describe_device(device, cache_dir)}"
        self.choose(SIZES[device.partition(":")[0]], cache_dir / "batches", subject, measured=assignment.tuned)

    def choose(self, sizes: Sequence[int], folder: Path, subject: str, *, measured: bool = True) -> None:
        """Set the loop's budget to the best of these ``sizes`` in tokens, ascending.

        The folder remembers the best size for a subject. An unknown size is ``measured`` now, or the budget stays as
        it is.
        """
        tokens: int | None = recall(folder, subject).get("batch_tokens")
        if tokens is None or tokens not in sizes:
            if not measured:
                return
            rates = self._measure_sizes(sizes)
            tokens = best(rates) if rates else sizes[0]
            remember(folder, subject, {"batch_tokens": tokens, "tokens_per_s": rates})
        self._loop.budget = self._budget(tokens)

    def _measure_sizes(self, sizes: Sequence[int]) -> dict[int, float]:
        """Return tokens per second by size, up to a size that does not fit, gains nothing, or takes too long."""
        rates: dict[int, float] = {}
        left_s = MEASURING_S
        for tokens in sizes:
            budget = self._loop.budget = self._budget(tokens)
            first_s, seconds = self._measure_s(budget), self._measure_s(budget)
            if self._loop.budget != budget:  # the loop lowered it, since a batch did not fit
                break
            previous = max(rates.values(), default=0.0)
            rates[tokens] = round(self._loop.at_once * tokens / seconds, 1)
            left_s -= first_s + seconds
            if rates[tokens] < previous * CLEARLY_FASTER or 4 * seconds > left_s:
                break
        return rates

    def _measure_s(self, budget: Budget) -> float:
        rows = max(1, budget.tokens // self._window.tokens) * self._loop.at_once
        return _compute_s(self._loop, [self._window] * rows, self._clock)

    def _budget(self, tokens: int) -> Budget:
        return replace(self._loop.budget, tokens=tokens, rows=tokens // _SHORTEST_TOKENS)


def measure_rate(loop: StaticLoop, coder: Coder, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the tokens that a loop computes per second: the best of some tries, since other work only slows it down.

    The windows have many lengths, as those of a corpus have. With windows of one length OpenVINO had 0.96 of torch's
    rate on a processor where it has 0.75 of it with a corpus, probably because it prepares each new shape of a batch.
    """
    windows = [window for window in coder.encode(_SAMPLE) if window.tokens <= coder.limit_tokens]
    tokens = sum(window.tokens for window in windows)
    passes = math.ceil(2 * loop.at_once * loop.budget.tokens / tokens)
    return passes * tokens / min(_compute_s(loop, windows * passes, clock) for _ in range(_TRIES))


def _compute_s(loop: StaticLoop, windows: Sequence[Encoded], clock: Callable[[], float]) -> float:
    """Return the seconds in which a loop computes these windows."""
    waiting: Pool[None] = Pool()
    waiting.add(Item(number, window, None) for number, window in enumerate(windows))
    began = clock()
    for _ in loop.run(waiting):
        continue
    return clock() - began


def short_window(model: Coder) -> Encoded:
    """Return a window of usual length: some dozens of tokens, or the model's limit if it is lower."""
    words = _WARM_UP_WORDS
    while (window := model.encode(["word " * words])[0]).tokens > model.limit_tokens and words > 1:
        words //= 2
    return window


def best(rates: Mapping[Option, float]) -> Option:
    """Return the first option, unless a later option is clearly faster."""
    fastest, *others = rates
    for option in others:
        if rates[option] >= rates[fastest] * CLEARLY_FASTER:
            fastest = option
    return fastest


# Batches for each stream: the one that it computes, and the next one.
_AHEAD = 2


class Streams(StaticLoop):
    """A loop that computes ``count`` batches at once. ``compute`` must be safe to call from several threads."""

    def __init__(self, compute: Callable[[Items], Sequence[Output]], budget: Budget, count: int) -> None:
        super().__init__(compute, budget)
        self.at_once = count
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="stream")

    def on_each_thread(self, work: Callable[[], None]) -> None:
        """Call a function once on each of the threads."""
        together = Barrier(self.at_once)  # no thread gets two of the calls

        def call() -> None:
            together.wait()
            work()

        for done in [self._threads.submit(call) for _ in range(self.at_once)]:
            done.result()

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        """Yield outputs as ``StaticLoop.run`` does, in the order in which batches end."""
        flights: dict[Future[Sequence[Output]], Items] = {}
        while True:
            while len(flights) < _AHEAD * self.at_once and (items := source.take(self.budget)):
                flights[self._threads.submit(self._compute, items)] = items
            if not flights:
                return
            landed, _ = wait(flights, return_when=FIRST_COMPLETED)
            if any(isinstance(future.exception(), OutOfMemory) for future in landed):
                landed, _ = wait(flights)  # so that no other batch takes memory while a failed one is tried again
            for future in landed:
                items, compute = flights.pop(future), future.result
                if len(items) == 1 and isinstance(future.exception(), OutOfMemory):
                    compute = partial(self._compute, items)
                yield from self.settle(items, compute)

    def close(self) -> None:
        self._threads.shutdown()
