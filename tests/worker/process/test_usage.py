"""The seconds of shards by what they were spent on, over the last minute."""

from __future__ import annotations

import pytest

from docmill.tasks.engine.engine import Counters
from docmill.worker.process.device import _report
from docmill.worker.process.usage import (
    COMPUTING,
    READING,
    WINDOW_S,
    TimeUse,
    UsageDifference,
    UsageTotals,
)


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_threads_spend_is_counted_by_phase() -> None:
    clock = _Clock()
    use = TimeUse(clock)
    with use.spent(READING):
        clock.now += 2
    with use.spent(COMPUTING), use.spent(READING):  # of two threads
        clock.now += 3
    found = use.lately(working_s=6, busy_s=4)
    expected = {"reading": 5, "cutting": 0, "computing": 3, "writing": 0, "working": 6, "device": 4}
    assert found == pytest.approx(expected)


def test_what_is_older_than_a_minute_does_not_count() -> None:
    clock = _Clock()
    use = TimeUse(clock)
    for _ in range(40):
        with use.spent(COMPUTING):
            clock.now += 5
        found = use.lately(working_s=clock.now, busy_s=0)
    assert found["computing"] == found["working"] == WINDOW_S
    for _ in range(20):
        clock.now += 5
        found = use.lately(working_s=300, busy_s=0)
    assert found["computing"] == 0


BEFORE = UsageTotals(100.0, 10.0, Counters(busy_s=9.0, batches=3, tokens_in=1000, padded_tokens=1100, tokens_out=10))
COUNTERS = Counters(busy_s=18.0, batches=5, tokens_in=2500, padded_tokens=3100, tokens_out=110)
WORKING = UsageTotals(101.0, 20.0, COUNTERS, idle=False)


def test_the_share_counts_seconds_in_which_there_was_work() -> None:
    report = UsageDifference.between(BEFORE, WORKING)
    assert str(report) == "working_s=10.0 busy=90.0% padding=25.0% tokens_per_s=160"


def test_a_device_process_logs_what_it_did_since_the_last_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert _report(BEFORE, WORKING) is BEFORE
    assert not caplog.messages
    done = UsageTotals(102.0, 20.0, COUNTERS)
    assert _report(BEFORE, done) is done
    assert _report(done, done) is done
    assert caplog.messages == ["device_used working_s=10.0 busy=90.0% padding=25.0% tokens_per_s=160"]
