"""vLLM's scheduling follows from the sizes of model and device."""

from __future__ import annotations

import pytest

from docmill.tasks.backends.decoder_only.vllm_settings import Accelerator, Scheduling, scheduling

GIB = 1 << 30
H100 = Accelerator("NVIDIA H100 80GB HBM3", 79 * GIB)


@pytest.mark.parametrize(
    ("weight_bytes", "gpu", "wanted"),
    [
        (GIB, None, Scheduling(64, 2048)),
        (GIB, Accelerator("NVIDIA L4", 23 * GIB), Scheduling(256, 8192)),
        (GIB, Accelerator("NVIDIA A100-SXM4-80GB", 79 * GIB), Scheduling(256, 8192)),
        (16 * GIB, H100, Scheduling(1024, 16_384)),
        (60 * GIB, H100, Scheduling(256, 16_384)),
        (None, H100, Scheduling(256, 16_384)),
    ],
)
def test_small_models_on_large_devices_write_more_texts_at_once(
    weight_bytes: int | None, gpu: Accelerator | None, wanted: Scheduling
) -> None:
    assert scheduling(weight_bytes, gpu) == wanted
