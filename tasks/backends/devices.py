"""Facts about memory without importing torch: how much a process uses and keeps, and errors of short memory."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# Parameters of mallopt (malloc.h); it takes an int.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST = 2**31 - 1
_LARGEST_BLOCK = 1 << 30
_LARGEST_OF_OLD = 32 << 20
# Messages of torch, oneDNN (in torch and OpenVINO), cuBLAS, CTranslate2 and its Thrust, which have no type for it.
_NO_MEMORY = (
    "DefaultCPUAllocator",
    "can't allocate memory",
    "ALLOC_FAILED",
    "bad_alloc",
    "with error out of memory",
    "cudaErrorMemoryAllocation",
)


@dataclass(frozen=True)
class Memory:
    """The memory of this process, in bytes; None if it is unknown.

    ``used`` is the memory of models and batches: torch's tensors on a GPU, the whole process on a CPU. ``reserved``
    is the memory that torch took from a GPU, with its cache. ``resident`` is the memory that the process uses of the
    machine.
    """

    used: int | None
    reserved: int | None
    resident: int | None


def lacks_memory(error: Exception) -> bool:
    """Return True for an error of short memory."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)


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


@functools.cache
def keep_freed() -> bool:
    """Keep freed memory in this process until ``release_freed`` is called. Return True if large blocks are kept, too.

    By default glibc returns each block of 32 MB or more to the system, and the kernel clears its pages again for
    every layer of every batch. Each thread keeps its own arena: a common arena makes tokenizing in several threads
    slow (bench/results/diary.md).

    If glibc refuses the large threshold, blocks below 32 MB are kept. Other C libraries are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    library.mallopt(_TRIM_THRESHOLD, _MOST)
    if library.mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK):
        return True
    library.mallopt(_MMAP_THRESHOLD, _LARGEST_OF_OLD)
    return False


def release_freed() -> None:
    """Return freed memory to the system, if it was kept."""
    if keep_freed.cache_info().currsize and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
