"""Prove that greedy outputs equal those of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.gpu.settings import Bench, Proof, compute_outputs
from docmill.tasks.backends.decoder_only.causal import CausalBackend
from docmill.tasks.outputs import Generated, Head


def make_greedy_options(bench: Bench) -> dict[str, Any]:
    """Return transformers' options for greedy outputs of a fixed length."""
    return {"max_new_tokens": bench.sizes.new_tokens, "min_new_tokens": bench.sizes.new_tokens, "do_sample": False}


def prove_greedy_outputs(
    bench: Bench, folder: Path, tokenizer: Any, texts: list[str], options: Mapping[str, Any]
) -> Proof:
    """Compare greedy outputs in float32 with those of transformers, one text at a time."""
    from transformers import AutoModelForCausalLM

    backend = CausalBackend(bench.assignment("generate", folder, Head.CAUSAL_TEXT, dtype="float32", **options))
    outputs = compute_outputs(backend, backend.encode(texts))
    backend.close()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(bench.device)
    n_equal = 0
    for text, output in zip(texts, outputs, strict=True):
        inputs = tokenizer([text], return_tensors="pt").to(bench.device)
        inputs.pop("token_type_ids", None)
        with torch.inference_mode():
            ids = model.generate(**inputs, **make_greedy_options(bench))[0, inputs["input_ids"].shape[1] :]
        expected = tokenizer.decode(ids, skip_special_tokens=True).strip()
        n_equal += isinstance(output, Generated) and output.text.strip() == expected
    return Proof("greedy outputs in float32 equal transformers'", n_equal == len(texts), n_equal / len(texts), 1.0)
