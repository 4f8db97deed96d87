"""Choose the devices of a worker without importing torch."""

from __future__ import annotations

import shutil
import subprocess
import sys

from docmill.tasks.backends import registry
from docmill.tasks.models import weightless
from docmill.worker.errors import SettingsError
from docmill.worker.settings import visible_cuda_devices

_NO_CUDA = frozenset({registry.CPU, registry.REMOTE})
TORCH = "import torch; print(torch.cuda.device_count())"


def devices_for(wanted: str, model: str | None) -> list[str]:
    """Return the devices of this machine for a job with this model: a served one needs none. Raises SettingsError."""
    needs_none = wanted == "auto" and weightless.is_served(model or "")
    return choose_devices(registry.REMOTE if needs_none else wanted)


def choose_devices(wanted: str) -> list[str]:
    """`auto` (every CUDA device, else the CPU), `cpu`, `cuda` (every one), or a list such as `cuda:0,cuda:1`.

    `remote` is a process that asks a server, and computes nothing itself.

    Raises SettingsError for a CUDA device that is not there: whoever computes on it could compute nothing.
    """
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    if names == ["auto"]:
        return cuda_devices() or ["cpu"]
    if names == ["cuda"]:
        return _there(wanted, cuda_devices() or seen_by_torch())
    for name in names:
        if name not in _NO_CUDA and not (name.startswith("cuda:") and name[5:].isdigit()):
            raise SettingsError(f"--device {wanted}: use auto, cpu, cuda, remote, or a list such as cuda:0,cuda:1")
    if not names or len(set(names)) != len(names):
        raise SettingsError(f"--device {wanted}: name each device once")
    named = [name for name in names if name not in _NO_CUDA]
    if not {*named} <= {*cuda_devices()}:  # the driver's tool may be missing where the driver is not
        there = _there(wanted, seen_by_torch() or cuda_devices())
        if missing := [name for name in named if name not in there]:
            raise SettingsError(f"--device {wanted}: there is no {', '.join(missing)} here, but {', '.join(there)}")
    return names


def _there(wanted: str, found: list[str]) -> list[str]:
    if not found:
        raise SettingsError(
            f"--device {wanted}: no CUDA device is visible here (neither nvidia-smi nor torch lists one); "
            "use --device cpu, or see to the driver and to CUDA_VISIBLE_DEVICES"
        )
    return found


def seen_by_torch() -> list[str]:
    """The CUDA devices that torch sees, asked in a process of its own, since the answer takes seconds and memory."""
    done = subprocess.run([sys.executable, "-P", "-c", TORCH], capture_output=True, text=True, check=False)
    counted = done.stdout.strip()
    return [f"cuda:{i}" for i in range(int(counted))] if done.returncode == 0 and counted.isdigit() else []


def cuda_devices() -> list[str]:
    """The CUDA devices that the driver's own tool lists, as far as CUDA_VISIBLE_DEVICES leaves them visible."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    listed = subprocess.run([tool, "--list-gpus"], capture_output=True, text=True, check=False)
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    if listed.returncode != 0:
        return []
    visible = visible_cuda_devices()
    return [f"cuda:{i}" for i in range(len(lines) if visible is None else min(visible, len(lines)))]
