"""Coders that tell an encoder-decoder model the language of each text, where the languages are to be found."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from storage.core.specs import Spec
from tasks.backends.encoder_decoder import task_prefixes
from tasks.backends.tokens import Reading, Tokens
from tasks.errors import CannotServe
from tasks.languages import language_codes
from tasks.models import families
from tasks.windows.windows import Readers


def readers(spec: Spec, config: Mapping[str, Any], tokens: Tokens, limit_tokens: int) -> Readers | None:
    """Return coders of texts by their language; None for a model of one direction, which is told none."""
    if spec.params.get("source_lang") != language_codes.AUTO:
        return None
    model_type = str(config.get("model_type", ""))
    if model_type in families.PREFIXED:
        return _worded(spec, config, tokens, limit_tokens)
    if model_type in families.MULTILINGUAL:
        return _tokened(spec, tokens, limit_tokens)
    return None


def _worded(spec: Spec, config: Mapping[str, Any], tokens: Tokens, limit_tokens: int) -> Readers:
    target = str(spec.params["target_lang"])

    @cache
    def coder(language: str) -> Reading:
        return Reading(tokens.framed(task_prefixes.wording(config, language, target)), limit_tokens)

    stated = frozenset(map(language_codes.plain, task_prefixes.worded_pairs(config, target)))
    return Readers(coder, stated or None)


def _tokened(spec: Spec, tokens: Tokens, limit_tokens: int) -> Readers:
    known = task_prefixes.known_languages(tokens.tokenizer)
    place = _place(spec, tokens, frozenset(known.values()))

    @cache
    def coder(language: str) -> Reading:
        return Reading(tokens.labelled(place, known[language_codes.match(language, known)]), limit_tokens)

    plain = (language_codes.plain(code) for code in known if language_codes.short_code(code))
    return Readers(coder, frozenset(plain))


def _place(spec: Spec, tokens: Tokens, labels: frozenset[int]) -> int:
    """Return the place of the language among a text's tokens, from the end if it stands behind the text."""
    found = []
    for encoded in tokens.encode(["", "a"]):
        assert not isinstance(encoded.features, str)
        ids = encoded.features["input_ids"]
        found.append([(place, place - len(ids)) for place, token in enumerate(ids) if token in labels])
    if any(len(places) != 1 for places in found):
        raise CannotServe(f"The tokenizer of {spec.model} shows no source language: give --from.")
    ((front, back),), ((other_front, other_back),) = found
    assert front == other_front or back == other_back
    return front if front == other_front else back
