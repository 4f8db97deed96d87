"""Memory that a batch has freed: it stays, without a fault for each page of the next batch, and goes back on demand.

In a process of its own, since what it sets holds for the whole process.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

BLOCK = 64 << 20
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
    found = json.loads(ran.stdout)
    block_pages = BLOCK // 4096
    if not found["done"]:
        pytest.skip("this glibc does not keep blocks of this size")
    assert found["unset"] > block_pages // 600  # pages may be huge ones, of 512
    assert found["kept"] <= found["unset"] // 2
    assert found["returned"] > block_pages // 2
