"""Proofs: encoders without padding give what the models' own code gives, and greedy outputs are transformers'."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import random_models
from bench.gpu.settings import DTYPES, Bench, Proof, Report, computed, texts_for
from docmill.tasks.backends.accelerator import native_bfloat16
from docmill.tasks.backends.decoder_only.causal import CausalBackend
from docmill.tasks.backends.encoder import own_code, packed
from docmill.tasks.backends.encoder.packed import kernels_for
from docmill.tasks.outputs import Generated, Head
from docmill.tasks.windows.windows import Encoded

_DESIGNS = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert")


def proven_kernels(bench: Bench, report: Report) -> None:
    """Compare each encoder design without padding with its own code, in each precision of the device's kernels.

    A CPU that does not multiply bfloat16 natively has no kernels for it.
    """
    texts = texts_for(bench)
    of_cpu = ("float32", "bfloat16") if native_bfloat16("cpu") else ("float32",)
    precisions = ("bfloat16", "float16") if bench.on_gpu else of_cpu
    for design in _DESIGNS:
        folder = random_models.encoder(bench.folder / f"proof-{design}", bench.sizes.encoders[0], design, texts)
        for precision in precisions:
            rows = min(64, bench.sizes.texts // 8)
            report.proofs.append(_proof_of_kernels(bench.device, folder, design, precision, rows))


def _proof_of_kernels(device: str, folder: Path, design: str, precision: str, rows: int) -> Proof:
    from transformers import AutoModel

    dtype = DTYPES[precision]
    what, bound = f"{design} in {precision} without padding", own_code.TOLERANCES[dtype]
    kernels = kernels_for(device, dtype)
    if kernels is None:
        return Proof(what, False, 0.0, bound, "there are no kernels for this device and precision")
    model = AutoModel.from_pretrained(folder, dtype=dtype).eval().to(device)
    try:
        with torch.inference_mode():
            encoder = packed.packed(model, device, kernels)
            distance = max(
                own_code.compared(model, bound).distance(encoder), _of_a_batch(encoder, model, device, rows)
            )
    except Exception as error:
        return Proof(what, False, float("inf"), bound, f"{type(error).__name__}: {str(error)[:200]}")
    return Proof(what, distance <= bound, distance, bound)


def _of_a_batch(encoder: packed.PackedEncoder, model: Any, device: str, count: int) -> float:
    """Return the difference over texts of up to 256 tokens in a batch, in parts of a state's length."""
    chance = torch.Generator().manual_seed(1)
    rows = [
        torch.randint(5, model.config.vocab_size, (int(length),), generator=chance).tolist()
        for length in torch.randint(1, 257, (count,), generator=chance)
    ]
    states = encoder([Encoded(len(ids), {"input_ids": ids}) for ids in rows])["token_embeddings"]
    distances: list[Tensor] = []
    for ids, found in zip(rows, states, strict=True):
        own = model(input_ids=torch.tensor([ids], device=device)).last_hidden_state[0].float()
        distances.append(((found[: len(ids)] - own).norm(dim=-1) / own.norm(dim=-1)).max())
    return float(torch.stack(distances).max())


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
