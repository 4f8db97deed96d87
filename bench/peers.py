"""Other ways to embed the same texts with the same model, by batch size, threads, and models side by side."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

Vectors = npt.NDArray[np.float32]
Embed = Callable[[Sequence[str], int], Vectors]
CORES = len(os.sched_getaffinity(0))


def side_by_side(make: Callable[[int], Embed], workers: int) -> Embed:
    """So many models at once, each with its share of the texts and of the cores."""
    models = [make(CORES // workers) for _ in range(workers)]

    def embed(texts: Sequence[str], batch: int) -> Vectors:
        if workers == 1:
            return models[0](texts, batch)
        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(lambda number: models[number](texts[number::workers], batch), range(workers)))
        rows = np.empty((len(texts), parts[0].shape[1]), dtype=np.float32)
        for number, part in enumerate(parts):
            rows[number::workers] = part
        return rows

    return embed


def sentence_transformers(folder: Path, dtype: torch.dtype, threads: int = CORES) -> Embed:
    """sentence-transformers on torch."""
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": dtype})

    def embed(texts: Sequence[str], batch: int) -> Vectors:
        torch.set_num_threads(threads)
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


def openvino(folder: Path, precision: str, threads: int = CORES) -> Embed:
    """OpenVINO under sentence-transformers' own loop: sorted by length, batches of one size, the mean of the tokens.

    sentence-transformers reaches OpenVINO through optimum-intel, which does not take the transformers of these days;
    so the model is converted here, and nothing else stands between the loop and it.
    """
    return _under_the_loop(folder, _compiled(_converted(folder), precision, threads))


def openvino_int8(folder: Path, texts: Sequence[str], threads: int = CORES) -> Embed:
    """The same, quantized as sentence-transformers' static export for OpenVINO does: NNCF at its own settings,
    calibrated on some texts."""
    return _under_the_loop(folder, _compiled(_quantized(folder, tuple(texts)), "f32", threads))


@cache
def _quantized(folder: Path, texts: tuple[str, ...]) -> Any:
    import nncf

    tokenizer = AutoTokenizer.from_pretrained(folder)

    def given(text: str) -> dict[str, Any]:
        ids = tokenizer([text], truncation=True, return_tensors="np")
        return {name: ids[name] for name in _EXAMPLE}

    nncf.disable_logging()
    return nncf.quantize(
        _converted(folder),
        nncf.Dataset(list(texts), given),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(texts),
    )


def onnx_runtime(folder: Path, work: Path, threads: int = CORES, *, int8: bool) -> Embed:
    """ONNX Runtime under the same loop; in int8 as sentence-transformers' dynamic export for AVX-512 VNNI does."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain, small = work / "model.onnx", work / "model_int8.onnx"
    if not plain.exists():
        _export(folder, plain)
    if int8 and not small.exists():
        logging.getLogger().setLevel(logging.ERROR)
        quantize_dynamic(plain, small, weight_type=QuantType.QInt8, per_channel=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(small if int8 else plain, options, providers=["CPUExecutionProvider"])
    return _under_the_loop(folder, lambda given: session.run(None, given)[0])


def _export(folder: Path, target: Path) -> None:
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
def _converted(folder: Path) -> Any:
    import openvino as ov

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
        return ov.convert_model(_States(model), example_input=_EXAMPLE)


def _compiled(made: Any, precision: str, threads: int) -> Callable[[dict[str, Any]], Any]:
    import openvino as ov

    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # pinned, two models side by side share one core
    }
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
