"""Small decoder-only models with random weights, of many architectures, saved as on the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import transformers

from tests.tasks.architectures import byte_level, save

END = "<|end|>"
CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL = [END, "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"]
_SIZES: dict[str, Any] = {
    "hidden_size": 128,  # heads of 32, the smallest that vLLM supports
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    # Larger than trained weights, so that outputs vary and have no near-ties.
    "initializer_range": 0.15,
}


def _tokenizer(texts: list[str], *, chat: bool) -> Any:
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level(texts, _SPECIAL), eos_token=END, pad_token="<|pad|>", model_max_length=100_000
    )
    if chat:
        fast.chat_template = CHAT
    return fast


def _ids(tokenizer: Any) -> dict[str, Any]:
    return {"vocab_size": len(tokenizer), "eos_token_id": 0, "bos_token_id": 0, "pad_token_id": 1}


def _save(folder: Path, model: Any, tokenizer: Any, generation: Mapping[str, Any]) -> Path:
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    return save(folder, model, tokenizer)


def gpt2(folder: Path, texts: list[str], **generation: Any) -> Path:
    tokenizer = _tokenizer(texts, chat=False)
    config = transformers.GPT2Config(
        n_positions=256, n_embd=128, n_layer=3, n_head=4, initializer_range=0.15, **_ids(tokenizer)
    )
    return _save(folder, transformers.GPT2LMHeadModel(config), tokenizer, generation)


def _decoder(name: str, **config: Any) -> Callable[..., Path]:
    """Return a function that saves a model with a chat template, whose classes begin with ``name``."""

    def make(folder: Path, texts: list[str], **generation: Any) -> Path:
        tokenizer = _tokenizer(texts, chat=True)
        config_class = getattr(transformers, f"{name}TextConfig", None) or getattr(transformers, f"{name}Config")
        model = getattr(transformers, f"{name}ForCausalLM")(config_class(**_SIZES, **_ids(tokenizer), **config))
        return _save(folder, model, tokenizer, generation)

    return make


llama = _decoder("Llama")
qwen2 = _decoder("Qwen2")
qwen3 = _decoder("Qwen3", head_dim=32, tie_word_embeddings=True)
# Two of its three layers see only the last 12 tokens. Tied and scaled, random weights would repeat the last token.
gemma3 = _decoder(
    "Gemma3",
    head_dim=32,
    sliding_window=12,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    query_pre_attn_scalar=32,
    tie_word_embeddings=False,
)


def gemma3_with_images(folder: Path, texts: list[str], **generation: Any) -> Path:
    """Save a Gemma 3 that also reads images. The config of its decoder is inside another config."""
    tokenizer = _tokenizer(texts, chat=True)
    text = {**_SIZES, **_ids(tokenizer), "head_dim": 32, "query_pre_attn_scalar": 32, "tie_word_embeddings": False}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, tie_word_embeddings=False)
    return _save(folder, transformers.Gemma3ForConditionalGeneration(config), tokenizer, generation)


DECODERS: Mapping[str, Callable[..., Path]] = {
    "gpt2": gpt2,
    "llama": llama,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma3": gemma3,
    "mistral": _decoder("Mistral", sliding_window=12, head_dim=32),
    "phi": _decoder("Phi", partial_rotary_factor=0.5),
    "phi3": _decoder("Phi3"),
}
