"""Embeddings whose first module ONNX Runtime computes."""

from __future__ import annotations

from typing import Any

import onnxruntime
import torch

from tasks.backends import Assignment
from tasks.backends.accelerator import dtype_for
from tasks.backends.encoder.converted.conversion import Conversion, ConvertedBackend
from tasks.backends.encoder.converted.onnx_encoder import exporting
from tasks.backends.tokens import Tokens
from tasks.errors import Unsuited


class OnnxBackend(ConvertedBackend):
    """One embedding model on a CPU, in float32.

    Raises Unsuited where ONNX Runtime would not give what the model's own code gives, or where the CPU has bfloat16
    and the spec's quality is what the device does natively.
    """

    def __init__(self, assignment: Assignment) -> None:
        spec, device = assignment.spec, assignment.device
        if device != "cpu" or spec.quality not in {"native", "float32"}:
            raise Unsuited(f"docmill computes nothing in {spec.quality} on {device} with ONNX Runtime.")
        if dtype_for(spec.quality, device) != torch.float32:
            raise Unsuited("This CPU has bfloat16, and ONNX Runtime float32 only: --dtype float32 asks for that.")
        super().__init__(assignment)

    def _conversion(self, model: Any, tokens: Tokens) -> Conversion:
        return exporting(model, tokens)

    def runtime(self) -> dict[str, Any]:
        found = super().runtime()
        found["versions"]["onnxruntime"] = onnxruntime.__version__
        return {**found, "backend": "onnxruntime"}
