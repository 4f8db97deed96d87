"""Device processes that are started before there is an order for them."""

from __future__ import annotations

import pytest

from worker.process.device_start import StartedDevices


def test_processes_without_an_order_end_with_the_block_and_the_others_with_their_input() -> None:
    with StartedDevices(2) as started:
        taken, left = started.take(), started._waiting[0]
        assert left.poll() is None
    assert left.returncode is not None
    assert taken.poll() is None
    said, _ = taken.communicate(timeout=60)
    assert said == b""
    assert taken.returncode == 0


def test_a_process_is_started_when_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.process.device_start.start_device", iter("ab").__next__)
    started = StartedDevices(1)
    assert [str(started.take()) for _ in range(2)] == ["a", "b"]
