"""Other libraries that embed the same texts with the same model, at any batch size and number of threads."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from transformers import AutoTokenizer

if TYPE_CHECKING:
    import torch

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
    import torch
    from sentence_transformers import SentenceTransformer

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


def openvino(folder: Path, precision: str, threads: int = CORES, converted: Path | None = None) -> Embed:
    """Return an embedder with OpenVINO, in the loop of sentence-transformers.

    sentence-transformers uses OpenVINO through optimum-intel, which does not support current transformers. So this
    module converts the model itself, unless `converted` is its file, and calls it directly from a loop like that of
    sentence-transformers.
    """
    if converted is not None:
        return _embed_in_loop(folder, _compile(converted, precision, threads))
    from bench import converters

    return _embed_in_loop(folder, _compile(converters.to_openvino(folder), precision, threads))


def openvino_int8(folder: Path, texts: Sequence[str], threads: int = CORES) -> Embed:
    """Return an embedder with OpenVINO in int8, quantized as by sentence-transformers' static export for OpenVINO.

    NNCF quantizes the model at its default settings, calibrated on `texts`.
    """
    from bench import converters

    return _embed_in_loop(folder, _compile(converters.to_openvino_int8(folder, tuple(texts)), "f32", threads))


def onnx_runtime(folder: Path, work: Path, threads: int = CORES, *, int8: bool) -> Embed:
    """Return an embedder with ONNX Runtime, in the same loop. `work` is the folder of the exported model.

    In int8, the model is quantized as by sentence-transformers' dynamic export for AVX-512 VNNI.
    """
    import onnxruntime

    plain, quantized = work / "model.onnx", work / "model_int8.onnx"
    if not plain.exists():
        from bench import converters

        converters.to_onnx(folder, plain)
    if int8 and not quantized.exists():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        logging.getLogger().setLevel(logging.ERROR)
        quantize_dynamic(plain, quantized, weight_type=QuantType.QInt8, per_channel=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    path = quantized if int8 else plain
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return _embed_in_loop(folder, lambda inputs: session.run(None, inputs)[0])


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
