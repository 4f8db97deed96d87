"""The time that a job still takes, from the shards that it finished lately."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.storage.core.database import Database
from docmill.storage.results.time_left import HeldShard, StepWork, TimeLeft, estimate, read_held_lately

CHARS, TEXTS, TOKENS = 1_000, 10, 250  # of each shard
NOW = 1e9
HELD = [HeldShard(0, 10.0 * i, 10.0 * (i + 1), CHARS, TEXTS, TOKENS) for i in range(20)]  # one after another


def _worked(lengths: list[float], slots: int, at: float) -> list[HeldShard]:
    """Return the shards that `slots` threads held up to `at` seconds."""
    free = [0.0] * slots
    held = []
    for length in lengths:
        start = heapq.heappop(free)
        heapq.heappush(free, start + length)
        if start < at:
            finished = start + length if start + length <= at else None
            held.append(HeldShard(0, start, finished, CHARS, TEXTS, TOKENS))
    return held


def _work(held: list[HeldShard], shards: int, step: int = 0, reads: int | None = None) -> StepWork:
    finished = [shard for shard in held if shard.finished_at is not None and shard.step == step]
    n_open = shards - len(finished)
    seconds = sum(shard.length_s(NOW) for shard in finished)
    done = len(finished)
    return StepWork(step, reads, done * TEXTS, n_open * TEXTS, n_open * CHARS, done * TEXTS, done * CHARS, seconds)


@given(st.floats(0.01, 400), st.integers(1, 16), st.integers(5, 60), st.integers(0, 300), st.floats(0, 0.999))
def test_the_time_left_is_the_truth_while_the_rate_is_constant(
    length: float, slots: int, rounds: int, left: int, part: float
) -> None:
    lengths = [length] * (slots * (rounds + 1 + left))
    at = (rounds + part) * length
    held = _worked(lengths, slots, at)
    work = _work(held, len(lengths))
    time_left = estimate(at, held, [work])
    # Computed texts of running shards count as open, since nothing is known about them.
    truth = work.open_texts / TEXTS * length / slots
    assert time_left.left_s == pytest.approx(truth, rel=0.05)
    assert not time_left.at_least
    assert time_left.texts_per_s == pytest.approx(slots * TEXTS / length, rel=0.05)
    assert time_left.tokens_per_s == pytest.approx(slots * TOKENS / length, rel=0.05)


def test_no_time_left_is_estimated_from_too_little_history() -> None:
    held = [HeldShard(0, NOW - 5, NOW - 2, CHARS, TEXTS, TOKENS)] * 3
    time_left = estimate(NOW, held, [_work(held, 10)])
    assert time_left.left_s is None
    assert time_left.texts_per_s > 0
    assert estimate(NOW, [], [_work([], 10)]) == TimeLeft()


def test_the_estimate_is_a_minimum_while_the_source_is_read() -> None:
    time_left = estimate(200, HELD, [_work(HELD, 40)], reading=True)
    assert time_left.left_s == pytest.approx(200)
    assert time_left.at_least


def test_texts_that_are_computed_but_not_written_take_no_time() -> None:
    assert estimate(200, HELD, [_work(HELD, 40)], computed=50).left_s == pytest.approx(150)


def test_the_time_of_a_step_includes_texts_that_earlier_steps_will_pass_to_it() -> None:
    """The first step takes 1 s for each shard and the second 9 s; the 30 open shards go through both."""
    held = []
    for i in range(30):
        held.append(HeldShard(0, 10.0 * i, 10.0 * i + 1, CHARS, TEXTS, TOKENS))
        held.append(HeldShard(1, 10.0 * i + 1, 10.0 * i + 10, CHARS, TEXTS, TOKENS))
    first, second = _work(held, 60), _work(held, 30, step=1, reads=0)
    time_left = estimate(300, held, [first, second])
    assert time_left.left_s == pytest.approx(300)
    assert not time_left.at_least


def test_the_estimate_is_a_minimum_while_a_step_has_not_begun() -> None:
    time_left = estimate(200, HELD, [_work(HELD, 40), _work([], 20, step=1, reads=0)])
    assert time_left.left_s is not None
    assert time_left.at_least


def test_any_number_of_jobs_is_looked_at(sqlite: Database) -> None:
    with sqlite.read() as transaction:
        assert read_held_lately(transaction, range(600), NOW) == {job_id: [] for job_id in range(600)}
