"""Batches side by side, each on a thread and a core of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from docmill.tasks.backends.encoder.parallel_batches import Streams
from docmill.tasks.backends.static import Items, StaticLoop
from docmill.tasks.batching import Budget, Item, Pool
from docmill.tasks.errors import OutOfMemory
from docmill.tasks.outputs import Output, Vector
from docmill.tasks.windows.windows import Encoded

STREAMS = 3


class Waiting:
    """A source of windows; each has as many tokens as its text has letters."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._pool: Pool[None] = Pool()
        self._pool.add([Item(number, Encoded(len(text), text), None) for number, text in enumerate(texts)])

    def take(self, budget: Budget) -> Sequence[Item[Any]]:
        return self._pool.take(budget)


def lengths(items: Items) -> Sequence[Output]:
    return [Vector(np.array([item.tokens], dtype=np.float32)) for item in items]


@pytest.fixture
def three_threads() -> Iterator[None]:
    """Torch as on a machine with three cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(STREAMS)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_each_stream_has_one_core_and_the_others_keep_theirs() -> None:
    seen: dict[str, int] = {}
    together = threading.Barrier(STREAMS)

    def compute(items: Items) -> Sequence[Output]:
        together.wait(10)  # breaks unless so many batches are computed at once
        seen[threading.current_thread().name] = torch.get_num_threads()
        return lengths(items)

    streams = Streams(StaticLoop(compute, Budget(tokens=5, rows=1)), compute)
    assert dict(streams.run(Waiting(["a"] * 2 * STREAMS))).keys() == set(range(2 * STREAMS))
    assert list(seen.values()) == [1] * STREAMS
    assert torch.get_num_threads() == STREAMS
    found: list[int] = []
    other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert found == [STREAMS]
    streams.close()


@pytest.mark.usefixtures("three_threads")
def test_every_window_has_its_own_output_even_where_batches_do_not_fit() -> None:
    def compute(items: Items) -> Sequence[Output]:
        if sum(item.tokens for item in items) > 40:
            raise OutOfMemory
        return lengths(items)

    texts = ["x" * (1 + number % 17) for number in range(400)]
    streams = Streams(StaticLoop(compute, Budget(tokens=100, rows=20)), compute)
    outputs = dict(streams.run(Waiting(texts)))
    streams.close()
    assert [float(outputs[number].values[0]) for number in range(400)] == [len(text) for text in texts]  # type: ignore[union-attr]
