"""Other libraries that embed the same texts with the same model, at any batch size and number of threads."""

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
    """Return an embedder that runs `workers` models at a time, each with its share of the texts and of the cores."""
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
    """Return an embedder with sentence-transformers on torch."""
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": dtype})

    def embed(texts: Sequence[str], batch: int) -> Vectors:
        torch.set_num_threads(threads)
        rows = model.encode(list(texts), batch_size=batch, show_progress_bar=False, convert_to_tensor=True)
        vectors: Vectors = rows.float().numpy()
        return vectors

    return embed


def lengths(folder: Path, texts: Sequence[str]) -> list[int]:
    """Return the number of tokens of each text, up to the model's limit."""
    ids_by_text = AutoTokenizer.from_pretrained(folder)(list(texts), truncation=True)["input_ids"]
    return [len(ids) for ids in ids_by_text]


class _States(torch.nn.Module):
    """A model that returns only its last hidden states, for the converters."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=False)[0]
        return states


_EXAMPLE = {"input_ids": torch.ones(2, 8, dtype=torch.long), "attention_mask": torch.ones(2, 8, dtype=torch.long)}


def openvino(folder: Path, precision: str, threads: int = CORES) -> Embed:
    """Return an embedder with OpenVINO, in the loop of sentence-transformers.

    sentence-transformers uses OpenVINO through optimum-intel, which does not support current transformers. So this
    module converts the model itself, and calls it directly from a loop like that of sentence-transformers.
    """
    return _embed_in_loop(folder, _compile(_convert(folder), precision, threads))


def openvino_int8(folder: Path, texts: Sequence[str], threads: int = CORES) -> Embed:
    """Return an embedder with OpenVINO in int8, quantized as by sentence-transformers' static export for OpenVINO.

    NNCF quantizes the model at its default settings, calibrated on `texts`.
    """
    return _embed_in_loop(folder, _compile(_quantize(folder, tuple(texts)), "f32", threads))


@cache
def _quantize(folder: Path, texts: tuple[str, ...]) -> Any:
    import nncf

    tokenizer = AutoTokenizer.from_pretrained(folder)

    def tokenize(text: str) -> dict[str, Any]:
        ids = tokenizer([text], truncation=True, return_tensors="np")
        return {name: ids[name] for name in _EXAMPLE}

    nncf.disable_logging()
    return nncf.quantize(
        _convert(folder),
        nncf.Dataset(list(texts), tokenize),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(texts),
    )


def onnx_runtime(folder: Path, work: Path, threads: int = CORES, *, int8: bool) -> Embed:
    """Return an embedder with ONNX Runtime, in the same loop. `work` is a folder for the exported model.

    In int8, the model is quantized as by sentence-transformers' dynamic export for AVX-512 VNNI.
    """
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain, quantized = work / "model.onnx", work / "model_int8.onnx"
    if not plain.exists():
        _export(folder, plain)
    if int8 and not quantized.exists():
        logging.getLogger().setLevel(logging.ERROR)
        quantize_dynamic(plain, quantized, weight_type=QuantType.QInt8, per_channel=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    path = quantized if int8 else plain
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return _embed_in_loop(folder, lambda inputs: session.run(None, inputs)[0])


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
def _convert(folder: Path) -> Any:
    import openvino as ov

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
        return ov.convert_model(_States(model), example_input=_EXAMPLE)


def _compile(model: Any, precision: str, threads: int) -> Callable[[dict[str, Any]], Any]:
    import openvino as ov

    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # if pinned, two models at a time would share one core
    }
    compiled = ov.Core().compile_model(model, "CPU", settings)
    return lambda inputs: compiled(inputs)[0].astype(np.float32)


def _embed_in_loop(folder: Path, compute_states: Callable[[dict[str, Any]], Any]) -> Embed:
    """Return an embedder that works like sentence-transformers.

    It sorts the texts by length, computes batches of one size, and returns the normalized mean of each text's states.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def embed(texts: Sequence[str], batch: int) -> Vectors:
        order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
        rows: list[Vectors] = [np.empty(0, dtype=np.float32)] * len(texts)
        for start in range(0, len(order), batch):
            places = order[start : start + batch]
            encoded = tokenizer(
                [texts[place] for place in places], padding=True, truncation=True, return_tensors="np"
            )
            mask = encoded["attention_mask"]
            states = compute_states({"input_ids": encoded["input_ids"], "attention_mask": mask})
            means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
            for place, row in zip(places, means / np.linalg.norm(means, axis=1, keepdims=True), strict=True):
                rows[place] = row
        return np.stack(rows)

    return embed
