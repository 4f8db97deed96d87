"""The best size of a batch is measured and remembered, and streams compute batches side by side."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from docmill.tasks.backends.encoder.batches import WarmUp, measure_rate
from docmill.tasks.backends.encoder.encoder_backend import open_streams
from docmill.tasks.backends.static import Items, StaticLoop
from docmill.tasks.batching import Budget
from docmill.tasks.errors import OutOfMemory
from docmill.tasks.outputs import Output, Vector
from docmill.tasks.windows.windows import Encoded
from tests.tasks.fakes import waiting

SIZES = (100, 200, 400, 800)
WINDOW = Encoded(10, "a window")


class Device:
    """A device on which a batch takes ``batch_s``, and ``token_s`` for each token. ``memory`` tokens fit."""

    def __init__(self, batch_s: float, token_s: float, memory: int = 1_000_000) -> None:
        self.now = 0.0
        self.batches: list[int] = []
        self._batch_s, self._token_s, self._memory = batch_s, token_s, memory

    def compute(self, items: Items) -> Sequence[Output]:
        tokens = sum(item.tokens for item in items)
        if tokens > self._memory:
            raise OutOfMemory
        self.batches.append(tokens)
        self.now += self._batch_s + self._token_s * tokens
        return [Vector(np.ones(1, dtype=np.float32)) for _ in items]


def find_tokens(device: Device, folder: Path, name: str = "a device") -> int:
    """Return the tokens of a batch that are measured to be the best."""
    loop = StaticLoop(device.compute, Budget(tokens=50, rows=5))
    WarmUp(loop, WINDOW, clock=lambda: device.now).choose(SIZES, folder, name)
    return loop.budget.tokens


def test_costs_of_a_batch_make_batches_large_and_costs_of_a_token_do_not(tmp_path: Path) -> None:
    assert find_tokens(Device(batch_s=0.01, token_s=0.0), tmp_path / "a") == 800
    device = Device(batch_s=0.0, token_s=1e-5)
    assert find_tokens(device, tmp_path / "b") == 100
    assert max(device.batches) == 200  # the first that gains nothing is the last that is tried


def test_a_batch_is_measured_once_for_each_device(tmp_path: Path) -> None:
    assert find_tokens(Device(batch_s=0.01, token_s=0.0), tmp_path) == 800
    device = Device(batch_s=0.0, token_s=1e-5)
    assert find_tokens(device, tmp_path) == 800
    assert not device.batches
    assert find_tokens(device, tmp_path, "another device") == 100


def test_a_batch_that_does_not_fit_is_not_chosen(tmp_path: Path) -> None:
    assert find_tokens(Device(batch_s=0.01, token_s=0.0, memory=250), tmp_path) == 200
    assert find_tokens(Device(batch_s=0.01, token_s=0.0, memory=50), tmp_path / "small") == 100


def test_a_slow_device_is_not_kept_busy_with_measuring(tmp_path: Path) -> None:
    device = Device(batch_s=0.2, token_s=0.0)
    assert find_tokens(device, tmp_path) == 100
    assert len(device.batches) == 2


def test_a_budget_that_may_not_be_measured_stays_unless_it_was_measured_before(tmp_path: Path) -> None:
    device = Device(batch_s=0.01, token_s=0.0)
    loop = StaticLoop(device.compute, Budget(tokens=50, rows=5))
    warm_up = WarmUp(loop, WINDOW, clock=lambda: device.now)
    warm_up.choose(SIZES, tmp_path, "a device", measured=False)
    assert (loop.budget.tokens, device.batches, [*tmp_path.iterdir()]) == (50, [], [])
    warm_up.choose(SIZES, tmp_path, "a device")
    loop.budget = Budget(tokens=50, rows=5)
    warm_up.choose(SIZES, tmp_path, "a device", measured=False)
    assert loop.budget.tokens == 800


def test_a_batch_is_measured_although_the_folder_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert find_tokens(Device(batch_s=0.01, token_s=0.0), tmp_path / "file") == 800


class WordCoder:
    """Makes a token of each word. Windows have at most ``limit_tokens``."""

    limit_tokens = 50

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return [Encoded(len(text.split()), text) for text in texts]


def test_the_rate_of_a_backend_is_that_of_windows_of_many_lengths() -> None:
    prepared: set[int] = set()
    device = Device(batch_s=0.0, token_s=1e-4)

    def compute(items: Items) -> Sequence[Output]:
        lengths = {item.tokens for item in items}
        device.now += 0.001 * len(lengths)  # for each shape
        prepared.update(lengths)
        return device.compute(items)

    rate = measure_rate(StaticLoop(compute, Budget(tokens=50, rows=50)), WordCoder(), clock=lambda: device.now)
    assert prepared == {*range(4, 50, 3)}
    assert rate < 8_000  # of the 10,000 tokens a second with windows of one length


STREAMS = 3


def compute_lengths(items: Items) -> Sequence[Output]:
    return [Vector(np.array([item.tokens], dtype=np.float32)) for item in items]


@pytest.fixture
def three_threads() -> Iterator[None]:
    """Let torch use three threads, as on a machine with three cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(STREAMS)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("three_threads")
def test_each_stream_has_one_core_and_the_others_keep_theirs() -> None:
    seen: dict[str, int] = {}
    together = threading.Barrier(STREAMS)

    def compute(items: Items) -> Sequence[Output]:
        together.wait(10)  # breaks unless so many batches are computed at once
        seen[threading.current_thread().name] = torch.get_num_threads()
        return compute_lengths(items)

    streams = open_streams(compute, Budget(tokens=5, rows=1))
    assert dict(streams.run(waiting([Encoded(1, "a")] * 2 * STREAMS))).keys() == set(range(2 * STREAMS))
    assert list(seen.values()) == [1] * STREAMS
    assert torch.get_num_threads() == STREAMS
    threads_elsewhere: list[int] = []
    thread = threading.Thread(target=lambda: threads_elsewhere.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert threads_elsewhere == [STREAMS]
    streams.close()


@pytest.mark.usefixtures("three_threads")
def test_a_window_that_lacked_memory_beside_others_is_tried_alone() -> None:
    running: set[int] = set()
    together, tried = threading.Barrier(STREAMS), threading.Event()
    alone: list[bool] = []

    def compute(items: Items) -> Sequence[Output]:
        if not threading.current_thread().name.startswith("stream"):
            alone.append(not running)
            tried.set()
            return compute_lengths(items)
        running.add(items[0].id)
        together.wait(10)
        if items[0].id:  # the others would see if the first were tried again too early
            tried.wait(0.1)
        running.remove(items[0].id)
        raise OutOfMemory

    streams = open_streams(compute, Budget(tokens=5, rows=1))
    outputs = dict(streams.run(waiting([Encoded(1, "a")] * STREAMS)))
    assert [type(output) for output in outputs.values()] == [Vector] * STREAMS
    assert alone == [True] * STREAMS
    streams.close()


@pytest.mark.usefixtures("three_threads")
def test_every_window_has_its_own_output_even_where_batches_do_not_fit() -> None:
    def compute(items: Items) -> Sequence[Output]:
        if sum(item.tokens for item in items) > 40:
            raise OutOfMemory
        return compute_lengths(items)

    sizes = [1 + number % 17 for number in range(400)]
    streams = open_streams(compute, Budget(tokens=100, rows=20))
    outputs = dict(streams.run(waiting(Encoded(size, "") for size in sizes)))
    streams.close()
    assert [float(outputs[number].values[0]) for number in range(400)] == sizes  # type: ignore[union-attr]
