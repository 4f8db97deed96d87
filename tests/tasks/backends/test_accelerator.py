"""Errors of an accelerator are told apart: out of memory, device lost, others."""

from __future__ import annotations

import pytest
import torch

from docmill.tasks.backends.accelerator import memory_errors
from docmill.tasks.errors import DeviceLost, OutOfMemory


def test_more_memory_than_there_is_is_told_apart_from_other_errors() -> None:
    with pytest.raises(OutOfMemory), memory_errors("cpu"):
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="shape"), memory_errors("cpu"):
        torch.zeros(2, 3) @ torch.zeros(2, 3)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_what_allocators_raise_is_out_of_memory(error: Exception) -> None:
    with pytest.raises(OutOfMemory), memory_errors("cpu"):
        raise error


def test_a_broken_cuda_context_is_a_lost_device() -> None:
    with pytest.raises(DeviceLost, match="cuda:0: CUDA error"), memory_errors("cuda:0"):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")
