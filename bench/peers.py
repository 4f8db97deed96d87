"""Other ways to embed the same texts with the same model, each with the batch size as its one setting."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

Vectors = npt.NDArray[np.float32]
Embed = Callable[[Sequence[str], int], Vectors]


def sentence_transformers(folder: Path, dtype: torch.dtype) -> Embed:
    """sentence-transformers on torch."""
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": dtype})

    def embed(texts: Sequence[str], batch: int) -> Vectors:
        found = model.encode(list(texts), batch_size=batch, show_progress_bar=False, convert_to_tensor=True)
        vectors: Vectors = found.float().numpy()
        return vectors

    return embed


def lengths(folder: Path, texts: Sequence[str]) -> list[int]:
    """The tokens of each text, up to the model's limit."""
    ids = AutoTokenizer.from_pretrained(folder)(list(texts), truncation=True)["input_ids"]
    return [len(one) for one in ids]


class _States(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=False)[0]
        return states


_EXAMPLE = {"input_ids": torch.ones(2, 8, dtype=torch.long), "attention_mask": torch.ones(2, 8, dtype=torch.long)}


def openvino(folder: Path, precision: str) -> Embed:
    """OpenVINO under sentence-transformers' own loop: sorted by length, batches of one size, the mean of the tokens.

    sentence-transformers reaches OpenVINO through optimum-intel, which does not take the transformers of these days;
    so the model is converted here, and nothing else stands between the loop and it.
    """
    return _under_the_loop(folder, _compiled(_converted(folder), precision))


def openvino_int8(folder: Path, texts: Sequence[str]) -> Embed:
    """The same, quantized as sentence-transformers' static export for OpenVINO does: NNCF at its own settings,
    calibrated on some texts."""
    import nncf

    tokenizer = AutoTokenizer.from_pretrained(folder)

    def given(text: str) -> dict[str, Any]:
        ids = tokenizer([text], truncation=True, return_tensors="np")
        return {name: ids[name] for name in _EXAMPLE}

    nncf.disable_logging()
    made = nncf.quantize(
        _converted(folder),
        nncf.Dataset(list(texts), given),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(texts),
    )
    return _under_the_loop(folder, _compiled(made, "f32"))


def onnx_runtime(folder: Path, work: Path, *, int8: bool) -> Embed:
    """ONNX Runtime under the same loop; in int8 as sentence-transformers' dynamic export for AVX-512 VNNI does."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain, small = work / "model.onnx", work / "model_int8.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        axes = {name: {0: "texts", 1: "tokens"} for name in (*_EXAMPLE, "states")}
        torch.onnx.export(
            _States(model),
            tuple(_EXAMPLE.values()),
            plain,
            input_names=list(_EXAMPLE),
            output_names=["states"],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
    if int8:
        logging.getLogger().setLevel(logging.ERROR)
        quantize_dynamic(plain, small, weight_type=QuantType.QInt8, per_channel=True)
    session = onnxruntime.InferenceSession(small if int8 else plain, providers=["CPUExecutionProvider"])
    return _under_the_loop(folder, lambda given: session.run(None, given)[0])


def _converted(folder: Path) -> Any:
    import openvino as ov

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
        return ov.convert_model(_States(model), example_input=_EXAMPLE)


def _compiled(made: Any, precision: str) -> Callable[[dict[str, Any]], Any]:
    import openvino as ov

    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": 1}
    compiled = ov.Core().compile_model(made, "CPU", settings)
    return lambda given: compiled(given)[0].astype(np.float32)


def _under_the_loop(folder: Path, states_of: Callable[[dict[str, Any]], Any]) -> Embed:
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def embed(texts: Sequence[str], batch: int) -> Vectors:
        order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
        rows: list[Vectors] = [np.empty(0, dtype=np.float32)] * len(texts)
        for start in range(0, len(order), batch):
            places = order[start : start + batch]
            given = tokenizer([texts[place] for place in places], padding=True, truncation=True, return_tensors="np")
            mask = given["attention_mask"]
            states = states_of({"input_ids": given["input_ids"], "attention_mask": mask})
            means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
            for place, row in zip(places, means / np.linalg.norm(means, axis=1, keepdims=True), strict=True):
                rows[place] = row
        return np.stack(rows)

    return embed
