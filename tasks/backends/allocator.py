"""The C library's allocator, where it is glibc's: whether memory that a batch has freed stays for the next one.

By itself glibc maps each block of 32 MB or more anew and gives it back as soon as it is free, as it does with the end
of the heap: the kernel clears these pages for every layer of every batch. Marian of base size in int8 took up to
17 % of its CPU time for that in batches of 32 texts of 190 tokens, and 10 % in batches of 24. One arena for all
threads would save the rest, but tokenising in two threads took 2.3 times as long with it.
"""

from __future__ import annotations

import ctypes
import functools
import platform

# Parameters of mallopt (malloc.h); it takes an int.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST = 2**31 - 1
_LARGEST_BLOCK = 1 << 30
_LARGEST_OF_OLD = 32 << 20


@functools.cache
def keep_freed() -> bool:
    """From now on what is freed stays with this process until release(), as far as threads' arenas of 64 MB hold it.

    Says whether large blocks do: a glibc that refuses so large a threshold keeps those below 32 MB, and other C
    libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    library.mallopt(_TRIM_THRESHOLD, _MOST)
    if library.mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK):
        return True
    library.mallopt(_MMAP_THRESHOLD, _LARGEST_OF_OLD)
    return False


def release() -> None:
    """Give what is free back to the system, if it was kept."""
    if keep_freed.cache_info().currsize and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
