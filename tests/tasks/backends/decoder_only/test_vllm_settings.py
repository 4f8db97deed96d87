"""vLLM's scheduling follows from the sizes of model and device."""

from __future__ import annotations

import pytest

from docmill.tasks.backends.decoder_only.vllm_settings import scheduling

GIB = 1 << 30
H100 = ("NVIDIA H100 80GB HBM3", 79 * GIB)


@pytest.mark.parametrize(
    ("weight_bytes", "gpu", "wanted"),
    [
        (GIB, (None, 0), (64, 2048)),
        (GIB, ("NVIDIA L4", 23 * GIB), (256, 8192)),
        (GIB, ("NVIDIA A100-SXM4-80GB", 79 * GIB), (256, 8192)),
        (16 * GIB, H100, (1024, 16_384)),
        (60 * GIB, H100, (256, 16_384)),
        (None, H100, (256, 16_384)),
    ],
)
def test_small_models_on_large_devices_write_more_texts_at_once(
    weight_bytes: int | None, gpu: tuple[str | None, int], wanted: tuple[int, int]
) -> None:
    assert scheduling(weight_bytes, *gpu) == wanted
