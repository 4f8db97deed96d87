"""Which devices a worker uses, found without importing torch."""

from __future__ import annotations

import shutil
import subprocess

from worker.errors import SettingsError
from worker.settings import visible_cuda_devices


def choose_devices(wanted: str) -> list[str]:
    """`auto` (every CUDA device, else the CPU), `cpu`, `cuda` (every one), or a list such as `cuda:0,cuda:1`."""
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    if names == ["auto"]:
        return cuda_devices() or ["cpu"]
    if names == ["cuda"]:
        found = cuda_devices()
        if not found:
            raise SettingsError("--device cuda: no CUDA device is visible here (nvidia-smi lists none)")
        return found
    for name in names:
        if name != "cpu" and not (name.startswith("cuda:") and name[5:].isdigit()):
            raise SettingsError(f"--device {wanted}: use auto, cpu, cuda, or a list such as cuda:0,cuda:1")
    if not names or len(set(names)) != len(names):
        raise SettingsError(f"--device {wanted}: name each device once")
    return names


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
