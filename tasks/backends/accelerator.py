"""Questions to torch about a device: its precision, its memory errors, its name, and whether it computes."""

from __future__ import annotations

import logging
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch

from docmill.tasks.backends import devices
from docmill.tasks.errors import DeviceLost, OutOfMemory, describe_error

_NAMED = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_BROKEN = ("CUDA error", "CUDA failed")


def dtype_for(quality: str, device: str) -> torch.dtype:
    """The precision that a quality class means on a device.

    ``native`` is bfloat16 where the device multiplies it natively, and float32 elsewhere.
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
    """Turn what torch raises when memory is short into OutOfMemory, and a broken device into DeviceLost."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
        raise OutOfMemory from error.with_traceback(None)  # its frames hold the batch
    except RuntimeError as error:
        if devices.lacks_memory(error):
            raise OutOfMemory from error.with_traceback(None)
        # After a kernel failed, every later call into the same CUDA context fails too. Libraries such as Triton and
        # cuDNN say so in words of their own.
        said = any(words in str(error) for words in _BROKEN)
        if device.startswith("cuda") and (said or find_fault(device)):
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
    """Loading without progress bars, and without the advice that libraries print for people."""
    import transformers

    _do_without_scipy()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*sacremoses.*")
        yield


def _do_without_scipy() -> None:
    """Have transformers take SciPy for missing: only losses of object detection need it, and it takes long to import.

    The library asks once, as it is imported, and remembers the answer.
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
    """The device as it was asked for, and what it is."""
    if device.startswith("cuda"):
        return f"{device} {torch.cuda.get_device_name(device)}".strip()
    return f"{device} {platform.machine()} {torch.backends.cpu.get_cpu_capability()} × {os.cpu_count()}"


def release(device: str) -> None:
    """Give what a closed model has left free back to the device, or to the system."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    else:
        devices.release_freed()
