"""GLiNER models, which find any labels by name: their config, and the designs that docmill computes.

Their config is in gliner_config.json, with the config of an encoder in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docmill.storage.extras import Extra
from docmill.tasks.errors import ModelUnsuitable
from docmill.tasks.models.families import Family, parse_object, read_file, window_limit
from docmill.tasks.models.weights import GLINER_CONFIG

TOKENIZER = "tokenizer_config.json"
EXTRA = Extra("gliner", ("gliner",), "entities of any labels by name, with GLiNER models")
# The library's defaults.
_MAX_WORDS, _MAX_WIDTH = 384, 12
ENTITY_TOKEN, SEPARATOR = "<<ENT>>", "<<SEP>>"
# Encoders that read texts of any length. Their windows have at most this many tokens for each word of the limit.
_TOKENS_PER_WORD = 4
_RELATIVE = frozenset({"deberta", "deberta-v2"})
_OTHER_DESIGNS = {
    "labels_encoder": "an encoder of its own for labels",
    "labels_decoder": "a decoder that writes labels",
    "relations_layer": "a layer for relations",
    "precomputed_prompts_mode": "labels of its own, which were computed before",
}


def read(data: bytes | None) -> dict[str, Any]:
    """Return the config in a gliner_config.json, with GLiNER as its architecture; {} if there is none."""
    content = parse_object(data)
    named = {"model_type": content.get("model_type") or "gliner", "architectures": [Family.GLINER.value]}
    return {**content, **named} if content else {}


def max_words(config: Mapping[str, Any]) -> int:
    """Return the most words of one window."""
    return int(config.get("max_len") or _MAX_WORDS)


def max_width(config: Mapping[str, Any]) -> int:
    """Return the most words of an entity that the model considers."""
    return int(config.get("max_width") or _MAX_WIDTH)


def limit_tokens(config: Mapping[str, Any], *stated: int, prompt_tokens: int = 0) -> int:
    """Return the most tokens of one window, with the prompt.

    ``stated`` are limits of the tokenizer. The library sets no limit for encoders with relative positions; this
    function does, since a word may have any number of tokens.
    """
    encoder: Mapping[str, Any] = config.get("encoder_config") or {}
    if encoder.get("model_type") in _RELATIVE and not encoder.get("position_biased_input", True):
        return window_limit({}, *stated, _TOKENS_PER_WORD * max_words(config) + prompt_tokens)
    return window_limit(encoder, *stated)


def prompt(config: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    """Return the words that the model reads before a text. ``labels`` has the words for each label."""
    entity = config.get("ent_token") or ENTITY_TOKEN
    return [part for words in labels.values() for part in (entity, words)] + [config.get("sep_token") or SEPARATOR]


def require(config: Mapping[str, Any], model: str) -> None:
    """Raise ModelUnsuitable for a model of another design, with code in its config, or that is not whole."""
    for name, design in _OTHER_DESIGNS.items():
        if config.get(name):
            raise ModelUnsuitable(
                f"{model} is a GLiNER model with {design}; docmill computes those with one encoder, which reads "
                "labels and text together. Name such a model with --model."
            )
    if "streaming" in str(config.get("model_type")):
        raise ModelUnsuitable(f"{model} is a GLiNER model that reads streams; name one with an encoder with --model.")
    if (splitter := config.get("words_splitter_type", "whitespace")) != "whitespace":
        raise ModelUnsuitable(
            f"{model} is a GLiNER model whose words are split by {splitter}; docmill computes those with the "
            "splitter whitespace. Name such a model with --model."
        )
    _require_no_code(config, GLINER_CONFIG, model)
    if not config.get("encoder_config"):
        raise _make_error(model, "its encoder's config")


def of_folder(folder: Path, model: str) -> dict[str, Any]:
    """Return the config of a model in a folder. Raises ModelUnsuitable, also if the folder has no tokenizer.

    The library would download a missing tokenizer from the hub, and ask on the terminal if it may run code.
    """
    config = read(read_file(folder / GLINER_CONFIG))
    require(config, model)
    if (tokenizer := read_file(folder / TOKENIZER)) is None:
        raise _make_error(model, "its tokenizer")
    _require_no_code(parse_object(tokenizer), TOKENIZER, model)
    return config


def _make_error(model: str, lacking: str) -> ModelUnsuitable:
    return ModelUnsuitable(
        f"{model} keeps {lacking} in another model on the hub. Save it whole, and name the folder: "
        f'GLiNER.from_pretrained("{model}").save_pretrained("FOLDER").'
    )


def _require_no_code(config: Mapping[str, Any], name: str, model: str) -> None:
    """Raise ModelUnsuitable for a config that names code, which the library would run."""
    if _has_key(config, "auto_map"):
        raise ModelUnsuitable(
            f"{model} brings code of its own (auto_map in {name}), and docmill runs no code from model files."
        )


def _has_key(value: object, key: str) -> bool:
    if isinstance(value, Mapping):
        return key in value or any(_has_key(inner, key) for inner in value.values())
    return isinstance(value, list) and any(_has_key(inner, key) for inner in value)
