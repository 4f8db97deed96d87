"""The memory of a process on a CPU, and freed memory that is kept."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

from docmill.tasks.backends.devices import memory, release_freed

BLOCK = 64 << 20
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is known on Linux only")


@on_linux
def test_memory_on_a_cpu_is_the_resident_memory_of_the_process() -> None:
    release_freed()  # or the block would use memory that a model freed
    memory_before = memory("cpu")
    held = b"\x01" * BLOCK
    memory_after = memory("cpu")
    assert memory_before.resident is not None
    assert memory_after.resident is not None
    assert memory_after.resident - memory_before.resident > 0.9 * len(held)
    assert (memory_after.used, memory_after.reserved) == (memory_after.resident, None)


@on_linux
def test_a_process_that_asks_a_server_uses_no_device() -> None:
    used = memory("remote")
    assert (used.used, used.reserved) == (None, None)
    assert used.resident is not None


PROGRAM = f"""
import ctypes, json, resource, sys
from docmill.tasks.backends import devices

def pages() -> int:
    return int(open("/proc/self/statm").read().split()[1])

def faults_of_a_second_use() -> int:
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = library.malloc({BLOCK})
        library.memset(block, 1, {BLOCK})
        library.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes = [ctypes.c_size_t]
library.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
devices.release_freed()
unset = faults_of_a_second_use()
done = devices.keep_freed()
kept = faults_of_a_second_use()
held = pages()
devices.release_freed()
json.dump({{"done": done, "unset": unset, "kept": kept, "returned": held - pages()}}, sys.stdout)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told to keep memory")
def test_freed_memory_is_kept_until_it_is_released() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    facts = json.loads(ran.stdout)
    block_pages = BLOCK // 4096
    if not facts["done"]:
        pytest.skip("this glibc does not keep blocks of this size")
    assert facts["unset"] > block_pages // 600  # pages may be huge ones, of 512
    assert facts["kept"] <= facts["unset"] // 2
    assert facts["returned"] > block_pages // 2
