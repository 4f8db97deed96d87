"""Device processes that are started before there is a configuration for them."""

from __future__ import annotations

import io
import os
from types import SimpleNamespace
from typing import Any

import pytest

from docmill.worker.process import device
from docmill.worker.process.device_start import DeviceConfig, StartedDevices


def test_processes_without_a_configuration_end_with_the_block_and_the_others_with_their_input() -> None:
    with StartedDevices(2) as started:
        configured, waiting = started.take(), started._waiting[0]
        assert waiting.poll() is None
    assert waiting.returncode is not None
    assert configured.poll() is None
    stdout, _ = configured.communicate(timeout=60)
    assert stdout == b""
    assert configured.returncode == 0


def test_a_process_is_started_when_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docmill.worker.process.device_start.start_device", iter("ab").__next__)
    started = StartedDevices(1)
    assert [str(started.take()) for _ in range(2)] == ["a", "b"]


def test_a_process_that_died_before_it_heard_of_a_spec_is_no_error_of_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stdin = os.fdopen(writing, "wb")
    process = SimpleNamespace(stdin=stdin, stdout=None, kill=lambda: None, wait=lambda: None)
    monkeypatch.setattr("docmill.worker.process.device_start.start_device", lambda: process)
    with StartedDevices(1) as started:
        started.expect("{}", "cpu", {})
    assert stdin.closed


def test_a_device_process_imports_for_the_specs_that_come_before_its_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imported: list[dict[str, Any]] = []
    monkeypatch.setattr(device, "_import_for", lambda **expected: imported.append(expected))
    process = SimpleNamespace(stdin=io.BytesIO())
    monkeypatch.setattr("docmill.worker.process.device_start.start_device", lambda: process)
    StartedDevices(1).expect("{}", "cpu", {})
    expected, config = process.stdin.getvalue(), DeviceConfig("me", "cpu", {}, only_job=7)

    def read_config(*lines: bytes) -> DeviceConfig | None:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"".join(lines))))
        return device._read_config()

    assert read_config(expected, config.to_line()) == config
    assert imported == [{"spec": "{}", "device": "cpu", "settings": {}}]
    assert read_config(expected) is None  # the command ended
