"""Several batches at once on a CPU, each on a thread and a core of its own.

All cores on one batch wait for each other at the end of every product, and for the slowest of them whenever
something else wants a core; batches side by side do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Barrier

from docmill.tasks.backends import Source
from docmill.tasks.backends.static import Computed, Items, StaticLoop
from docmill.tasks.outputs import Output

# Batches for each stream, so that none waits for us between two of them.
_AHEAD = 2


class Streams:
    """Batches at once. ``compute`` must be safe to call from several threads.

    There are as many as torch has threads, and torch computes each on one thread. With a ``count`` there are so many,
    and ``compute`` does without torch.
    """

    def __init__(
        self, loop: StaticLoop, compute: Callable[[Items], Sequence[Output]], count: int | None = None
    ) -> None:
        self._loop = loop
        self._compute = compute
        self.count = _threads_of_torch() if count is None else count
        self._threads = ThreadPoolExecutor(self.count, thread_name_prefix="stream")
        if count is None:
            self._share_cores()

    def _share_cores(self) -> None:
        import torch

        together = Barrier(self.count)  # so that each thread gets one of these calls
        for done in [self._threads.submit(_alone_on_its_core, together) for _ in range(self.count)]:
            done.result()
        torch.set_num_threads(self.count)  # for the other threads of this process all is as before

    def run(self, source: Source) -> Iterator[Computed]:
        """As ``StaticLoop.run``; outputs come in the order in which batches end."""
        flights: dict[Future[Sequence[Output]], Items] = {}
        while True:
            while len(flights) < _AHEAD * self.count and (items := source.take(self._loop.budget)):
                flights[self._threads.submit(self._compute, items)] = items
            if not flights:
                return
            landed, _ = wait(flights, return_when=FIRST_COMPLETED)
            for future in landed:
                yield from self._loop.settle(flights.pop(future), future.result)

    def close(self) -> None:
        self._threads.shutdown()


def _threads_of_torch() -> int:
    import torch

    return torch.get_num_threads()


def _alone_on_its_core(together: Barrier) -> None:
    """Let this thread's products run on this thread only: each thread keeps the number that it sets itself."""
    import torch

    together.wait()
    torch.get_num_threads()  # a thread's first question gives it the number of the process, whatever it set before
    torch.set_num_threads(1)
