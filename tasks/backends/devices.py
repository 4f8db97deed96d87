"""Find out if a device computes at all, and how much memory a process has of it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Memory:
    """The memory of this process, in bytes; None where there is none of a kind, or the system does not tell.

    ``used`` holds models and batches on the device: tensors of torch on a GPU, all of the process's on a CPU.
    ``reserved`` is what torch took from a GPU, with its cache. ``resident`` is the machine's memory.
    """

    used: int | None
    reserved: int | None
    resident: int | None


def problem(device: str) -> str | None:
    """Return why a device can compute nothing, in the library's own words; None where it computes."""
    import torch

    try:
        torch.ones(1, device=device).add(1).item()
    except torch.cuda.OutOfMemoryError:  # others have its memory, for now
        return None
    except Exception as error:
        return " ".join(str(error).split())[:300] or type(error).__name__
    return None


def memory(device: str) -> Memory:
    """Return the memory that this process has now. Imports nothing, and waits for no device."""
    resident = _resident()
    if not device.startswith("cuda"):
        return Memory(resident if device == "cpu" else None, None, resident)
    # torch gets this attribute when the import of torch.cuda is complete, on whatever thread.
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return Memory(0, 0, resident)
    return Memory(cuda.memory_allocated(device), cuda.memory_reserved(device), resident)


def _resident() -> int | None:
    """Return the resident memory of this process (Linux: pages, second in its statm)."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None
