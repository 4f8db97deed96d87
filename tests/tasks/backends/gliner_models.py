"""Small GLiNER models with random weights, of the library's own designs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from docmill.tasks.backends.accelerator import quiet
from tests.tasks import architectures, classifiers

LABELS = {"package": "package", "language": "programming language", "format": "file format"}
# Weights are larger than usual random weights, so that the scores of spans differ.
_SPREAD = 0.2
_MOST_WORDS, _WIDEST = 60, 5
_ENCODERS: dict[str, dict[str, Any]] = {
    "bert": classifiers.SIZES,
    "deberta-v2": {
        **classifiers.SIZES,
        **classifiers.DISENTANGLED,
        "type_vocab_size": 0,
        "position_biased_input": False,
    },
    "modernbert": {**classifiers.SIZES, **classifiers.MODERN, "local_attention": 8},
}
# Each encoder with both kinds of spans: all up to a width, or those between begin and end tokens.
DESIGNS = [(encoder, span_mode) for encoder in _ENCODERS for span_mode in ("markerV0", "token_level")]
_SEEDS = range(60)
_FEW = 10


def gliner_model(folder: Path, texts: Sequence[str], encoder: str, span_mode: str) -> Path:
    """Save a model that finds entities of several labels in the texts, and a tokenizer that is trained on them.

    Each training gives another vocabulary, so several seeds of the weights are tried.
    """
    if encoder == "deberta-v2":
        tokenizer = architectures.sentence_pieces(texts)
        tokenizer.model_max_length = int(1e30)
    else:
        tokenizer = architectures.words(texts, typed=encoder == "bert")
    tokenizer.save_pretrained(folder)
    config = {
        "model_name": str(folder),
        "span_mode": span_mode,
        "hidden_size": 32,
        "dropout": 0.0,
        "max_width": _WIDEST,
        "max_len": _MOST_WORDS,
        "encoder_config": {
            "model_type": encoder,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "max_position_embeddings": 130,
            **_ENCODERS[encoder],
        },
    }
    for seed in _SEEDS:
        model = _random(config, seed)
        labels = [entity["label"] for of_text in model.inference(list(texts[:20]), LABELS) for entity in of_text]
        if len(labels) > _FEW and len({*labels}) > 1:
            model.save_pretrained(folder, safe_serialization=True)
            return folder
    raise AssertionError(f"no seed makes a {encoder} with {span_mode} that finds something")


def _random(config: dict[str, Any], seed: int) -> Any:
    from gliner import GLiNER

    torch.manual_seed(seed)
    with quiet():
        model = GLiNER.from_config(config, backbone_from_pretrained=False)
    for name, weight in model.model.named_parameters():
        if weight.dim() > 1 and "token_rep_layer" not in name:
            weight.data.normal_(std=_SPREAD)
    return model.eval()
