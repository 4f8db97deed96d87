"""Small classifiers with random weights, of many architectures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from docmill.tasks.backends.accelerator import quiet
from tests.tasks import architectures

# Weights are larger than usual random weights, so that the scores of labels differ.
SPREAD = 0.2
SIZES: dict[str, Any] = {**architectures.ENCODER_SIZES, "initializer_range": SPREAD}
DISTILLED: dict[str, Any] = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "initializer_range": SPREAD}
BOTH: dict[str, Any] = {**architectures.SIZES, "max_position_embeddings": 130}
MODERN: dict[str, Any] = {"cls_token_id": 2, "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
DISENTANGLED: dict[str, Any] = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 16}
FUNNEL: dict[str, Any] = {
    "block_sizes": [1, 1],
    "d_model": 32,
    "n_head": 4,
    "d_head": 8,
    "d_inner": 64,
    "initializer_std": SPREAD,
}
CONFIGS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "bert": (transformers.BertConfig, SIZES),
    "roberta": (transformers.RobertaConfig, {**SIZES, "type_vocab_size": 1}),
    "xlm-roberta": (transformers.XLMRobertaConfig, {**SIZES, "type_vocab_size": 1}),
    "distilbert": (transformers.DistilBertConfig, DISTILLED),
    "electra": (transformers.ElectraConfig, {**SIZES, "embedding_size": 16}),
    "deberta-v2": (transformers.DebertaV2Config, {**SIZES, **DISENTANGLED, "type_vocab_size": 0}),
    "modernbert": (transformers.ModernBertConfig, {**SIZES, **MODERN, "local_attention": 8}),
    "modernbert-mean": (transformers.ModernBertConfig, {**SIZES, **MODERN, "classifier_pooling": "mean"}),
    "bart": (transformers.BartConfig, BOTH),
    "squeezebert": (transformers.SqueezeBertConfig, {**SIZES, "embedding_size": 32}),
    "layoutlm": (transformers.LayoutLMConfig, SIZES),
    "convbert": (transformers.ConvBertConfig, {**SIZES, "embedding_size": 32}),
    "fnet": (transformers.FNetConfig, SIZES),
    "nystromformer": (transformers.NystromformerConfig, SIZES),
    "yoso": (transformers.YosoConfig, SIZES),
    "funnel": (transformers.FunnelConfig, FUNNEL),
    "longformer": (transformers.LongformerConfig, {**SIZES, "attention_window": 16, "sep_token_id": 2}),
}
# Architectures with RoBERTa's tokenizer, which has no token types.
BYTES = frozenset({"roberta", "xlm-roberta", "bart", "longformer"})
# Architectures with BERT's tokenizer and token types.
TYPED = frozenset({"bert", "electra", "squeezebert", "layoutlm", "convbert", "fnet", "funnel"})
# Architectures whose numbers for a text depend on padding.
READ_PADDING = frozenset({"convbert", "fnet", "nystromformer", "yoso", "funnel"})
# Architectures whose head needs more than the last hidden states, or whose encoder needs more than tokens.
WHOLE = READ_PADDING | {"bart", "longformer"}
NAMES = tuple(CONFIGS)


def classifier(
    folder: Path,
    texts: Sequence[str],
    name: str,
    *,
    seed: int = 7,
    head: Any = AutoModelForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast | None = None,
    **config: Any,
) -> Path:
    """Save a classifier of an architecture, with four labels by default."""
    tokenizer = tokenizer or _tokenizer(texts, name)
    config_class, sizes = CONFIGS[name]
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 130,
        "pad_token_id": tokenizer.pad_token_id,
        "id2label": {0: "games", 1: "science", 2: "text editors", 3: "mail"},
        **sizes,
        **config,
    }
    settings["label2id"] = {label: number for number, label in settings["id2label"].items()}
    torch.manual_seed(seed)
    with quiet():
        model = head.from_config(config_class(**settings))
        if name == "bart":
            model.classification_head.out_proj.weight.data.normal_(std=SPREAD)
    return architectures.save(folder, model, tokenizer)


def _tokenizer(texts: Sequence[str], name: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of an architecture's kind, trained on the texts."""
    if name in BYTES:
        return architectures.byte_pairs(texts)
    if name == "deberta-v2":
        return architectures.sentence_pieces(texts)
    return architectures.words(texts, typed=name in TYPED)
