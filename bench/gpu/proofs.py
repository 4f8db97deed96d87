"""The proof that greedy outputs are those of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.gpu.settings import Bench, Proof, computed
from docmill.tasks.backends.decoder_only.causal import CausalBackend
from docmill.tasks.outputs import Generated, Head


def greedy(bench: Bench) -> dict[str, Any]:
    """Return the options of a greedy search of a fixed length."""
    return {"max_new_tokens": bench.sizes.new_tokens, "min_new_tokens": bench.sizes.new_tokens, "do_sample": False}


def proof_of_writing(
    bench: Bench, folder: Path, tokenizer: Any, texts: list[str], options: Mapping[str, Any]
) -> Proof:
    """Compare greedy outputs in float32 with those of transformers, one text at a time."""
    from transformers import AutoModelForCausalLM

    backend = CausalBackend(bench.assignment("generate", folder, Head.CAUSAL_TEXT, dtype="float32", **options))
    ours = computed(backend, backend.encode(texts))
    backend.close()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(bench.device)
    equal = 0
    for text, output in zip(texts, ours, strict=True):
        given = tokenizer([text], return_tensors="pt").to(bench.device)
        given.pop("token_type_ids", None)
        with torch.inference_mode():
            ids = model.generate(**given, **greedy(bench))[0, given["input_ids"].shape[1] :]
        wanted = tokenizer.decode(ids, skip_special_tokens=True).strip()
        equal += isinstance(output, Generated) and output.text.strip() == wanted
    return Proof("greedy outputs in float32 equal transformers'", equal == len(texts), equal / len(texts), 1.0)
