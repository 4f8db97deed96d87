"""Small GGUF files with random weights, as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest

from tests.tasks.architectures import byte_level
from tests.tasks.decoders import CHAT, END

WIDTH, LAYERS, HEADS, KEYS, POSITIONS = 64, 2, 4, 2, 256


def llama(
    file: Path, texts: list[str], *, architecture: str = "llama", without: Collection[str] = (), heads: int = HEADS
) -> Path:
    """Write a Llama whose weights are quantized to 4 and 8 bits; ``without`` names weights that are left out."""
    gguf = pytest.importorskip("gguf", reason="an environment from before the extra gguf")
    q8, q4 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    tokenizer = byte_level(texts, [END, "<|user|>", "<|assistant|>"])
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_type("model")
    writer.add_name("Small")
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(heads)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token.startswith("<|") else normal for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template(CHAT)
    shapes = {"token_embd.weight": (len(tokens), WIDTH), "output.weight": (len(tokens), WIDTH)}
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.attn_q.weight": (WIDTH, WIDTH),
            f"blk.{layer}.attn_k.weight": (WIDTH // heads * KEYS, WIDTH),
            f"blk.{layer}.attn_v.weight": (WIDTH // heads * KEYS, WIDTH),
            f"blk.{layer}.attn_output.weight": (WIDTH, WIDTH),
            f"blk.{layer}.ffn_gate.weight": (2 * WIDTH, WIDTH),
            f"blk.{layer}.ffn_up.weight": (2 * WIDTH, WIDTH),
            f"blk.{layer}.ffn_down.weight": (WIDTH, 2 * WIDTH),
        }
    random = np.random.default_rng(3)
    for name, shape in shapes.items():
        if name not in without:
            kind = q4 if name.startswith("blk") else q8
            drawn = random.normal(0, 0.2, shape).astype(np.float32)
            writer.add_tensor(name, gguf.quants.quantize(drawn, kind), raw_dtype=kind)
    for name in ["output_norm", *(f"blk.{layer}.{norm}_norm" for layer in range(LAYERS) for norm in ("attn", "ffn"))]:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
