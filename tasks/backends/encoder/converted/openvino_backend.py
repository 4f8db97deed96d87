"""Encoder-only models whose encoder OpenVINO computes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import openvino
import torch

from docmill.tasks.backends import Assignment
from docmill.tasks.backends.encoder.comparison import TOLERANCES, Proven, reads_padding
from docmill.tasks.backends.encoder.converted.openvino_encoder import (
    OpenVinoEncoder,
    converted,
    converted_before,
    tracing,
)
from docmill.tasks.backends.encoder.converted.openvino_int8 import quantization
from docmill.tasks.backends.encoder.converted.outlier_channels import splits
from docmill.tasks.backends.encoder.encoder_backend import EncoderBackend
from docmill.tasks.backends.encoder.heads import EncoderModel, StatesOf
from docmill.tasks.backends.encoder.packed import has_berts_design
from docmill.tasks.backends.tokens import Tokens
from docmill.tasks.errors import Unsuited
from docmill.tasks.outputs import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class OpenVinoBackend(EncoderBackend):
    """One encoder-only model with its head on a CPU.

    The graph that OpenVINO computes ends at the last hidden states. The head reads them in torch, in float32. Raises
    Unsuited where OpenVINO would not give what the model's own code gives.
    """

    def __init__(self, assignment: Assignment) -> None:
        spec, device = assignment.spec, assignment.device
        if device != "cpu" or spec.quality not in {"native", "float32", "bfloat16", "int8"}:
            raise Unsuited(f"docmill computes nothing in {spec.quality} on {device} with OpenVINO.")
        self._int8 = spec.quality == "int8"
        super().__init__(assignment)

    def runtime(self) -> dict[str, Any]:
        found = super().runtime()
        found["versions"]["openvino"] = openvino.__version__
        if self._int8:
            found["precision"] = f"int8_{found['precision']}"
            found["versions"]["nncf"] = version("nncf")
        return {**found, "backend": "openvino"}

    def _computed_in(self, quality: str) -> torch.dtype:
        # Between int8's products are sums and norms, which stay what they are without it.
        return super()._computed_in("native" if quality == "int8" else quality)

    def _loading_dtype(self) -> torch.dtype:
        return torch.float32  # what is converted; the precision is the library's to choose

    def _fast_encoder(self, model: EncoderModel, assignment: Assignment) -> Proven:
        spec, encoder, tokens = assignment.spec, model.encoder, model.tokens
        if encoder is None or tokens is None:
            raise Unsuited(f"{spec.model} has modules that want more of the first than its last hidden states.")
        if reads_padding(model, TOLERANCES[self._loading_dtype()]):
            raise Unsuited(f"{spec.model} gives a text other numbers beside a longer one: its own code computes it.")
        first_only = model.reads_first and has_berts_design(encoder)
        if self._int8:
            # Vectors in int8 stay what the same spec gave before.
            may_change = assignment.head is not Head.POOLING
            conversion = quantization(
                encoder,
                tokens,
                model.limit_tokens,
                first_only=first_only and may_change,
                split=may_change and splits(encoder),
            )
        else:
            conversion = tracing(encoder, tokens, self._dtype, first_only=first_only)
        return converted(spec, assignment.cache_dir, conversion, tokens, self._dtype)

    def _facts(self, fast: StatesOf, own: PreTrainedModel, assignment: Assignment) -> Mapping[str, Any]:
        assert isinstance(fast, OpenVinoEncoder)
        return {"folder": fast.folder.name}

    def _encoder_again(self, assignment: Assignment, facts: Mapping[str, Any], tokens: Tokens) -> StatesOf:
        return converted_before(facts["folder"], assignment.cache_dir, tokens, self._dtype)
