"""The seconds that shards spent in each phase, over the last minute."""

from __future__ import annotations

import pytest

from docmill.worker.process.counts import COMPUTING, READING, WINDOW_S, TimeUse


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_time_of_threads_is_counted_by_phase() -> None:
    clock = Clock()
    use = TimeUse(clock)
    with use.spent(READING):
        clock.now += 2
    with use.spent(COMPUTING), use.spent(READING):  # of two threads
        clock.now += 3
    seconds = use.lately(working_s=6, busy_s=4)
    expected = {"reading": 5, "cutting": 0, "computing": 3, "writing": 0, "working": 6, "device": 4}
    assert seconds == pytest.approx(expected)


def test_time_older_than_a_minute_does_not_count() -> None:
    clock = Clock()
    use = TimeUse(clock)
    for _ in range(40):
        with use.spent(COMPUTING):
            clock.now += 5
        seconds = use.lately(working_s=clock.now, busy_s=0)
    assert seconds["computing"] == seconds["working"] == WINDOW_S
    for _ in range(20):
        clock.now += 5
        seconds = use.lately(working_s=300, busy_s=0)
    assert seconds["computing"] == 0
