"""Convert an encoder for other libraries, as their users do once before they embed texts."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer


class _States(torch.nn.Module):
    """A model that returns only its last hidden states, for the converters."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=False)[0]
        return states


_EXAMPLE = {"input_ids": torch.ones(2, 8, dtype=torch.long), "attention_mask": torch.ones(2, 8, dtype=torch.long)}


def to_onnx(folder: Path, target: Path) -> None:
    """Write the model in ONNX's format."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        axes = {name: {0: "texts", 1: "tokens"} for name in (*_EXAMPLE, "states")}
        torch.onnx.export(
            _States(model),
            tuple(_EXAMPLE.values()),
            target,
            input_names=list(_EXAMPLE),
            output_names=["states"],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )


@cache
def to_openvino(folder: Path) -> Any:
    """Return the model in float32 for OpenVINO."""
    import openvino as ov

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
        return ov.convert_model(_States(model), example_input=_EXAMPLE)


@cache
def to_openvino_int8(folder: Path, texts: tuple[str, ...]) -> Any:
    """Return the model as NNCF quantizes it at its default settings, calibrated on `texts`."""
    import nncf

    tokenizer = AutoTokenizer.from_pretrained(folder)

    def tokenize(text: str) -> dict[str, Any]:
        ids = tokenizer([text], truncation=True, return_tensors="np")
        return {name: ids[name] for name in _EXAMPLE}

    nncf.disable_logging()
    return nncf.quantize(
        to_openvino(folder),
        nncf.Dataset(list(texts), tokenize),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(texts),
    )
