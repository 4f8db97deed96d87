"""Which devices a worker takes, by what the driver's tool lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.devices import choose_devices
from worker.errors import SettingsError


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose driver's tool lists two devices."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: one (UUID: GPU-1)'\necho 'GPU 1: two (UUID: GPU-2)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("two_gpus")
def test_auto_takes_every_cuda_device() -> None:
    assert choose_devices("auto") == ["cuda:0", "cuda:1"]
    assert choose_devices("cuda") == ["cuda:0", "cuda:1"]
    assert choose_devices("cpu") == ["cpu"]
    assert choose_devices("cuda:1, cuda:0") == ["cuda:1", "cuda:0"]


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("visible", "found"), [("1", ["cuda:0"]), ("", ["cpu"]), ("-1", ["cpu"])])
def test_devices_that_are_hidden_from_the_process_are_left_alone(
    visible: str, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert choose_devices("auto") == found


@pytest.mark.usefixtures("no_gpu")
def test_without_a_driver_auto_is_the_cpu_and_cuda_is_refused() -> None:
    assert choose_devices("auto") == ["cpu"]
    with pytest.raises(SettingsError, match="no CUDA device is visible"):
        choose_devices("cuda")


@pytest.mark.parametrize("wanted", ["gpu", "cuda:", "cuda:x", "", "cpu,cpu"])
def test_what_is_no_device_is_refused(wanted: str) -> None:
    with pytest.raises(SettingsError, match="--device"):
        choose_devices(wanted)
