"""Facts about a model from its config.json, without torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Family(StrEnum):
    ENCODER = "encoder-only"
    SEQ2SEQ = "encoder-decoder"
    DECODER = "decoder-only"
    GLINER = "GLiNER"


# Models that read and write several languages, and must be told which.
MULTILINGUAL = frozenset({"m2m_100", "mbart", "nllb-moe", "nllb_moe", "seamless_m4t", "plbart"})
# Models that are told what to do by words at the start of their input.
PREFIXED = frozenset({"t5", "mt5", "umt5", "longt5", "switch_transformers"})
# Relative positions: the config's length is the one of training, and the model reads longer texts.
RELATIVE = PREFIXED
# Position ids start after the padding index, so that two of the positions are never used.
OFFSET = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet", "data2vec-text"})

# Models of which some layers keep a state of their own; of others the types of their layers say so.
STATEFUL = frozenset(
    {
        "bailing_hybrid", "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "kimi_linear", "mamba",
        "mamba2", "nemotron_h", "olmo_hybrid", "qwen3_5", "qwen3_5_moe", "qwen3_next", "recurrent_gemma", "rwkv",
        "xlstm", "zamba", "zamba2",
    }
)  # fmt: skip
_STATE_LAYERS = frozenset({"linear_attention", "mamba", "mamba2", "conv", "recurrent", "hybrid"})

# The names under which configurations keep their number of positions.
_POSITIONS = ("max_position_embeddings", "n_positions", "max_encoder_position_embeddings", "max_source_positions")
# Tokenizers without a limit name this or more.
_NO_LIMIT = 1_000_000
OUR_LIMIT_TOKENS = 512

_CLASSIFIER = re.compile(
    r"For(SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice)(Simple)?$"
)
_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")
_DECODER_WORDS = ("CausalLM", "LMHead", "GPT", "Llama", "Mistral", "Qwen", "Gemma", "Phi")
_DECODER_TYPES = ("gpt", "llama", "mistral", "qwen", "gemma", "phi", "opt", "bloom", "falcon", "mamba", "smollm")


def family(config: Mapping[str, Any]) -> Family | None:
    """The family of a model, or None where its config says nothing."""
    if Family.GLINER in (config.get("architectures") or ()):
        return Family.GLINER
    if config.get("is_encoder_decoder") or any(
        word in architecture
        for architecture in config.get("architectures") or ()
        for word in ("Seq2Seq", "ConditionalGeneration", "MTModel")
    ):
        return Family.SEQ2SEQ
    model_type = str(config.get("model_type", ""))
    if model_type in PREFIXED:
        return Family.SEQ2SEQ
    if any(word in name for name in config.get("architectures") or () for word in _DECODER_WORDS):
        return Family.DECODER
    if any(model_type.startswith(name) for name in _DECODER_TYPES):
        return Family.DECODER
    return Family.ENCODER if model_type or config.get("architectures") else None


def stateful(config: Mapping[str, Any]) -> bool:
    """Return True if some layers of a model keep a state of their own in place of keys and values."""
    config = config.get("text_config") or config
    if str(config.get("model_type", "")).removesuffix("_text") in STATEFUL:
        return True
    return not _STATE_LAYERS.isdisjoint(config.get("layer_types") or ())


def classifier(config: Mapping[str, Any]) -> str | None:
    """Return the kind of a classifier's head, such as `sequence classification`; None for other models."""
    for name in config.get("architectures") or ():
        if match := _CLASSIFIER.search(str(name)):
            return _WORD.sub(" ", match[1]).lower()
    return None


def entailment(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the places of entailment and contradiction among an NLI model's labels; None for other classifiers.

    They are found as transformers' zero-shot-classification finds them.
    """
    labels = config.get("label2id") or {name: int(place) for place, name in (config.get("id2label") or {}).items()}
    found = next((place for label, place in labels.items() if str(label).lower().startswith("entail")), None)
    return None if found is None else (found, -1 if found == 0 else 0)


def window_limit(config: Mapping[str, Any], *others: int | None) -> int:
    """The most tokens, special ones included, that one window may have.

    The smallest of what the config and the ``others`` (the tokenizer's limit, sentence-transformers'
    max_seq_length) name; OUR_LIMIT_TOKENS where nobody names one.
    """
    limits = [limit for limit in others if limit is not None and 0 < limit < _NO_LIMIT]
    model_type = str(config.get("model_type", ""))
    if model_type not in RELATIVE or not limits:
        positions = [config[name] for name in _POSITIONS if isinstance(config.get(name), int) and config[name] > 0]
        limits += [count - 2 if model_type in OFFSET else count for count in positions]
    return min(limits, default=OUR_LIMIT_TOKENS)


def positions(config: Mapping[str, Any]) -> int | None:
    """Return the number of tokens that a model can write or hold; None if its config sets no limit."""
    config = config.get("text_config") or config
    if str(config.get("model_type", "")) in RELATIVE:
        return None
    named = ("max_decoder_position_embeddings", "max_target_positions", *_POSITIONS)
    return next((config[name] for name in named if isinstance(config.get(name), int) and config[name] > 0), None)


def task_settings(config: Mapping[str, Any], task: str, languages: tuple[str, str] | None = None) -> dict[str, Any]:
    """Return the settings that a config keeps for one task (T5 and BART do): its prefix and generation parameters.

    ``task`` is the config's own name, such as ``summarization``.
    """
    name = task if languages is None else f"{task}_{languages[0]}_to_{languages[1]}"
    return dict((config.get("task_specific_params") or {}).get(name) or {})


def knows_prefix(config: Mapping[str, Any], task: str) -> bool:
    """Return True if a T5 was trained to do a task after a prefix: its config has one, or it is one of the first T5s.

    T5 1.1, mT5, UMT5, LongT5 and Switch have gated layers, or another type, and were trained without a prefix.
    """
    if "prefix" in task_settings(config, task):
        return True
    return config.get("model_type") == "t5" and config.get("feed_forward_proj", "relu") == "relu"
