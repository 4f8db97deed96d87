"""Embeddings whose first module OpenVINO computes; all else is sentence-transformers' and ``SentenceBackend``'s."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import openvino
import torch

from storage.specs import Spec
from tasks.backends.encoder.openvino_encoder import OpenVinoEncoder, Origin, converted_encoder, tracing
from tasks.backends.encoder.openvino_int8 import quantization
from tasks.backends.encoder.sentence import SentenceBackend
from tasks.errors import Unsuited


class OpenVinoBackend(SentenceBackend):
    """One embedding model on a CPU. Raises Unsuited where OpenVINO would not give what the model's own code gives."""

    def __init__(self, spec: Spec, folder: Path, *, device: str, cache_dir: Path) -> None:
        if device != "cpu" or spec.quality not in {"native", "float32", "bfloat16", "int8"}:
            raise Unsuited(f"docmill computes nothing in {spec.quality} on {device} with OpenVINO.")
        self._int8 = spec.quality == "int8"
        super().__init__(spec, folder, device=device, cache_dir=cache_dir)

    def _loading_dtype(self) -> torch.dtype:
        return torch.float32  # what is traced; the precision is OpenVINO's to choose

    def _computed_in(self, quality: str) -> torch.dtype:
        # Between int8's products are sums and norms, which stay what they are without it.
        return super()._computed_in("native" if quality == "int8" else quality)

    def _own_encoder(self, spec: Spec, cache_dir: Path, fits: bool) -> OpenVinoEncoder:
        if not fits or self._tokens is None:
            raise Unsuited(f"{spec.model} has modules that want more of the first than its last hidden states.")
        model, origin = self._model[0].auto_model, Origin(spec.model, spec.revision, cache_dir)
        if self._int8:
            conversion = quantization(model, self._tokens, self._limit_tokens)
        else:
            conversion = tracing(model, self._tokens, self._dtype)
        return converted_encoder(model, self._tokens, self._dtype, origin, conversion)

    def runtime(self) -> dict[str, Any]:
        found = super().runtime()
        found["versions"]["openvino"] = openvino.__version__
        if self._int8:
            found["precision"] = f"int8_{found['precision']}"
            found["versions"]["nncf"] = version("nncf")
        return {**found, "backend": "openvino"}
