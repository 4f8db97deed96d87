"""Embeddings whose first module OpenVINO computes."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import openvino
import torch

from tasks.backends import Assignment
from tasks.backends.encoder.converted.conversion import Conversion, ConvertedBackend
from tasks.backends.encoder.converted.openvino_encoder import tracing
from tasks.backends.encoder.converted.openvino_int8 import quantization
from tasks.backends.tokens import Tokens
from tasks.errors import Unsuited


class OpenVinoBackend(ConvertedBackend):
    """One embedding model on a CPU. Raises Unsuited where OpenVINO would not give what the model's own code gives."""

    def __init__(self, assignment: Assignment) -> None:
        spec, device = assignment.spec, assignment.device
        if device != "cpu" or spec.quality not in {"native", "float32", "bfloat16", "int8"}:
            raise Unsuited(f"docmill computes nothing in {spec.quality} on {device} with OpenVINO.")
        self._int8 = spec.quality == "int8"
        super().__init__(assignment)

    def _computed_in(self, quality: str) -> torch.dtype:
        # Between int8's products are sums and norms, which stay what they are without it.
        return super()._computed_in("native" if quality == "int8" else quality)

    def _conversion(self, model: Any, tokens: Tokens) -> Conversion:
        if self._int8:
            return quantization(model, tokens, self._limit_tokens, self._dtype)
        return tracing(model, tokens, self._dtype)

    def runtime(self) -> dict[str, Any]:
        found = super().runtime()
        found["versions"]["openvino"] = openvino.__version__
        if self._int8:
            found["precision"] = f"int8_{found['precision']}"
            found["versions"]["nncf"] = version("nncf")
        return {**found, "backend": "openvino"}
