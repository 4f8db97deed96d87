"""Questions to torch about a device: its precision, its memory errors, its name, and whether it computes."""

from __future__ import annotations

import logging
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from docmill.tasks.backends import devices
from docmill.tasks.backends.registry import version
from docmill.tasks.errors import DeviceLost, OutOfMemory, describe_error

_NAMED = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_BROKEN = ("CUDA error", "CUDA failed")


def dtype_for(quality: str, device: str) -> torch.dtype:
    """Return the precision of a quality class on a device.

    ``native`` is bfloat16 if the device multiplies it natively, else float32.
    """
    if quality == "native":
        return torch.bfloat16 if native_bfloat16(device) else torch.float32
    return _NAMED[quality]


def native_bfloat16(device: str) -> bool:
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)


@contextmanager
def memory_errors(device: str) -> Iterator[None]:
    """Turn torch's errors of short memory into OutOfMemory, and those of a broken device into DeviceLost."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
        raise OutOfMemory from error.with_traceback(None)  # its frames hold the batch
    except RuntimeError as error:
        if devices.lacks_memory(error):
            raise OutOfMemory from error.with_traceback(None)
        # After a kernel failed, every later call into the same CUDA context fails, too. Triton and cuDNN have their
        # own messages for it, so the device is tried.
        is_broken = any(words in str(error) for words in _BROKEN)
        if device.startswith("cuda") and (is_broken or find_fault(device)):
            raise DeviceLost(f"{device}: {str(error).splitlines()[0]}") from error
        raise


def find_fault(device: str) -> str | None:
    """Return why a device can compute nothing, in torch's words; None for a device that computes."""
    try:
        torch.ones(1, device=device).add(1).item()
    except torch.cuda.OutOfMemoryError:  # other processes have its memory, for now
        return None
    except Exception as error:
        return describe_error(error)
    return None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and the advice that libraries print while they load models."""
    import transformers

    _do_without_scipy()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*sacremoses.*")
        yield


def _do_without_scipy() -> None:
    """Make transformers believe that SciPy is missing: importing it is slow, and only object detection needs it.

    transformers asks once, when it is imported, and caches the answer.
    """
    from transformers.utils.import_utils import is_scipy_available

    if "scipy" not in sys.modules:
        sys.modules["scipy"] = None  # type: ignore[assignment]
        try:
            is_scipy_available.cache_clear()
            is_scipy_available()
        finally:
            del sys.modules["scipy"]


def runtime(backend: str, device: str, dtype: torch.dtype, **versions: str) -> dict[str, Any]:
    """Return a row of the runtime table: device, precision, backend and versions, with ``versions`` added."""
    return {
        "device": device_name(device),
        "precision": str(dtype).removeprefix("torch."),
        "backend": backend,
        "versions": {
            "torch": torch.__version__,
            "transformers": version("transformers"),
            "python": platform.python_version(),
            **versions,
        },
    }


def device_name(device: str) -> str:
    """Return a device's name with its hardware, such as ``cuda:0 NVIDIA A100``."""
    if device.startswith("cuda"):
        return f"{device} {torch.cuda.get_device_name(device)}".strip()
    return f"{device} {platform.machine()} {torch.backends.cpu.get_cpu_capability()} × {os.cpu_count()}"


def release(device: str) -> None:
    """Return the freed memory of a closed model to the device or to the system."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    else:
        devices.release_freed()
