"""Run one library in this process, which imports what the library needs and no more. Print the peak memory in MB.

Usage: python -m bench.memory_sides SIDE MODEL CONVERTED TEXTS

CONVERTED is the folder of the models that `bench.memory` converted, and TEXTS the number of texts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from bench.manpages import paragraphs
from bench.pairs import peak_mb

BATCH = 32
OPENVINO, CTRANSLATE2 = "openvino.xml", "ctranslate2-model"  # names in the folder of converted models


def _embed_with_sentence_transformers(model: Path, _: Path, texts: Sequence[str], *, precision: str) -> None:
    import torch

    from bench import peers

    peers.sentence_transformers(model, getattr(torch, precision))(texts, BATCH)


def _embed_with_openvino(model: Path, converted: Path, texts: Sequence[str], *, precision: str) -> None:
    from bench import peers

    peers.openvino(model, precision, converted=converted / OPENVINO)(texts, BATCH)


def _embed_with_onnx_runtime(model: Path, converted: Path, texts: Sequence[str]) -> None:
    from bench import peers

    peers.onnx_runtime(model, converted, int8=False)(texts, BATCH)


def _translate_with_ctranslate2(model: Path, converted: Path, texts: Sequence[str]) -> None:
    from transformers import AutoTokenizer

    from bench import ctranslate2_peer

    translator = ctranslate2_peer.load_translator((converted / CTRANSLATE2).resolve(), "int8")
    ctranslate2_peer.translate(translator, AutoTokenizer.from_pretrained(model), 1, BATCH, texts)


def _translate_with_transformers(model: Path, _: Path, texts: Sequence[str]) -> None:
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForSeq2SeqLM.from_pretrained(model, dtype=torch.float32).eval()
    ordered = sorted(texts, key=len)
    for start in range(0, len(ordered), BATCH):
        batch = tokenizer(ordered[start : start + BATCH], return_tensors="pt", padding=True)
        with torch.inference_mode():
            tokenizer.batch_decode(network.generate(**batch, num_beams=1), skip_special_tokens=True)


Side = Callable[[Path, Path, Sequence[str]], None]
EMBEDDING: Mapping[str, Side] = {
    "sentence-transformers, torch float32": partial(_embed_with_sentence_transformers, precision="float32"),
    "sentence-transformers, torch bfloat16": partial(_embed_with_sentence_transformers, precision="bfloat16"),
    "OpenVINO float32": partial(_embed_with_openvino, precision="f32"),
    "OpenVINO bfloat16": partial(_embed_with_openvino, precision="bf16"),
    "ONNX Runtime float32": _embed_with_onnx_runtime,
}
TRANSLATION: Mapping[str, Side] = {
    "CTranslate2 directly, int8": _translate_with_ctranslate2,
    "transformers, batches of 32, float32": _translate_with_transformers,
}


def main(side: str, model: str, converted: str, n_texts: str) -> None:
    {**EMBEDDING, **TRANSLATION}[side](Path(model), Path(converted), paragraphs(int(n_texts)))
    print(round(peak_mb(), 1))


if __name__ == "__main__":
    main(*sys.argv[1:])
