"""Errors of an accelerator are out of memory, a lost device, or others."""

from __future__ import annotations

import pytest
import torch

from docmill.tasks.backends import accelerator
from docmill.tasks.backends.accelerator import memory_errors
from docmill.tasks.errors import DeviceLost, OutOfMemory


def test_a_lack_of_memory_is_told_apart_from_other_errors() -> None:
    with pytest.raises(OutOfMemory), memory_errors("cpu"):
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="shape"), memory_errors("cpu"):
        torch.zeros(2, 3) @ torch.zeros(2, 3)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("CUDA failed with error out of memory"),  # of CTranslate2
        RuntimeError("reduce failed to synchronize: cudaErrorMemoryAllocation: out of memory"),
        RuntimeError("cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED"),
    ],
)
def test_the_errors_of_allocators_are_out_of_memory(error: Exception) -> None:
    with pytest.raises(OutOfMemory), memory_errors("cpu"):
        raise error


@pytest.mark.parametrize("kind", [RuntimeError, torch.AcceleratorError])
def test_a_broken_cuda_context_is_a_lost_device(kind: type[RuntimeError]) -> None:
    with pytest.raises(DeviceLost, match="cuda:0: CUDA error"), memory_errors("cuda:0"):
        raise kind("CUDA error: an illegal memory access was encountered\nmore")


@pytest.mark.parametrize(("problem", "raised"), [("CUDA error: ...", DeviceLost), (None, RuntimeError)])
def test_a_librarys_error_is_a_lost_device_if_the_device_no_longer_computes(
    problem: str | None, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "find_fault", lambda _: problem)
    with pytest.raises(raised, match=r"Triton Error \[CUDA\]"), memory_errors("cuda:0"):
        raise RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")
