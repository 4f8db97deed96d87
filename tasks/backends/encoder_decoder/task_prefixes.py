"""Task prefixes of encoder-decoder models: words, tokens, or none.

Where the languages are to be found, each text has a prefix of its own, which the coder of its language gives it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds, languages
from docmill.tasks.backends.tokens import TokenCoder, Tokens
from docmill.tasks.errors import BadOption, CannotServe
from docmill.tasks.models import families
from docmill.tasks.windows.windows import LanguageCoders

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TRANSLATION = "translation"  # the name of the task in a config
_PAIR = re.compile(r"translation_([a-z]{2,3})_to_([a-z]{2,3})")
_LANGUAGE_TOKEN = re.compile(r"__([a-z]{2,3})__|([a-z]{2,3}_[A-Z]{2}|[a-z]{3}_[A-Z][a-z]{3})")


@dataclass(frozen=True)
class Dialect:
    """``prefix`` stands before every window, ``forced_bos_token_id`` starts every output, ``parameters`` are
    the generation parameters that the config keeps for the task."""

    prefix: str = ""
    forced_bos_token_id: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


def dialect(spec: Spec, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Dialect:
    """Return the way to tell this model what to do; sets the tokenizer's source language where it has one.

    Raises BadOption for languages that the model does not know, CannotServe where it must be told some.
    """
    model_type = str(config.get("model_type", ""))
    built_in = kinds.kind(spec.kind).built_in
    if built_in is None:
        return Dialect()
    if not built_in.languages:
        settings = families.task_settings(config, built_in.settings)
        # Specs from before --prefix say nothing, and mean these words with every T5.
        usual = settings.get("prefix", built_in.prefix if model_type in families.PREFIXED else "")
        return Dialect(str(spec.params.get("prefix", usual) or ""), parameters=settings)
    source, target = spec.params.get("source_lang"), spec.params.get("target_lang")
    if source == languages.AUTO and model_type in families.PREFIXED:
        return Dialect(parameters=_agreed(spec, worded_pairs(config, str(target))))
    if source == languages.AUTO and model_type in families.MULTILINGUAL:
        source = min(known_languages(tokenizer))  # each text has its own in place of this one
    if model_type in families.PREFIXED and "prefix" in spec.params:
        return _prefixed(spec, config, source, target)
    if model_type in families.PREFIXED:
        return _worded(config, *_both(spec, source, target))
    if model_type in families.MULTILINGUAL:
        return _tokened(tokenizer, *_both(spec, source, target))
    if model_type == "marian":
        return _marian(spec, tokenizer, target)
    return Dialect(parameters=families.task_settings(config, _TRANSLATION))


def language_tokens(vocabulary: Mapping[str, int]) -> dict[str, int]:
    """The languages that a multilingual vocabulary has tokens for: code to token id."""
    found = {}
    for token, number in vocabulary.items():
        if match := _LANGUAGE_TOKEN.fullmatch(token):
            found[match.group(1) or match.group(2)] = number
    return found


def _both(spec: Spec, source: str | None, target: str | None) -> tuple[str, str]:
    if source is None or target is None:
        raise CannotServe(f"{spec.model} translates between several languages: give --from and --to.")
    return source, target


def _worded(config: Mapping[str, Any], source: str, target: str) -> Dialect:
    settings = families.task_settings(config, _TRANSLATION, _short(source, target))
    return Dialect(wording(config, source, target), parameters=settings)


def _prefixed(spec: Spec, config: Mapping[str, Any], source: str | None, target: str | None) -> Dialect:
    pair = None if source is None or target is None else _short(source, target)
    return Dialect(str(spec.params["prefix"]), parameters=families.task_settings(config, _TRANSLATION, pair))


def _short(source: str, target: str) -> tuple[str, str]:
    return languages.short_code(source) or source, languages.short_code(target) or target


def wording(config: Mapping[str, Any], source: str, target: str) -> str:
    """The words that a T5 is told a pair of languages with."""
    settings = families.task_settings(config, _TRANSLATION, _short(source, target))
    return str(settings.get("prefix") or f"translate {languages.name(source)} to {languages.name(target)}: ")


def worded_pairs(config: Mapping[str, Any], target: str) -> dict[str, Mapping[str, Any]]:
    """The source languages that a config has settings for with this target, and those without the words."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, settings in (config.get("task_specific_params") or {}).items():
        match = _PAIR.fullmatch(name)
        if match and languages.same_language(match.group(2), target):
            found[match.group(1)] = {key: value for key, value in settings.items() if key != "prefix"}
    return found


def _agreed(spec: Spec, pairs: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The generation parameters of all pairs, which share their batches."""
    first, *others = pairs.values() or ({},)
    if any(other != first for other in others):
        raise CannotServe(f"{spec.model} writes differently for each source language: give --from.")
    return first


def known_languages(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The languages that a multilingual tokenizer has tokens for: code to token id."""
    # M2M100 keeps its languages outside the vocabulary.
    return {**getattr(tokenizer, "lang_code_to_id", {}), **language_tokens(tokenizer.get_vocab())}


def _tokened(tokenizer: PreTrainedTokenizerBase, source: str, target: str) -> Dialect:
    known = known_languages(tokenizer)
    tokenizer.src_lang = languages.match(source, known)
    return Dialect(forced_bos_token_id=known[languages.match(target, known)])


def _marian(spec: Spec, tokenizer: PreTrainedTokenizerBase, target: str | None) -> Dialect:
    """Marian models have one direction, but for those with target tokens such as ``>>fra<<``."""
    tokens = {token.strip("><"): token for token in getattr(tokenizer, "supported_language_codes", ())}
    if len(tokens) > 1 and target is None:
        some = ", ".join(sorted(tokens)[:12])
        raise CannotServe(f"{spec.model} translates into several languages: give --to, one of {some}.")
    if tokens and target is not None:
        return Dialect(prefix=f"{tokens[languages.match(target, tokens)]} ")
    own = getattr(tokenizer, "target_lang", None)
    if target is not None and own and not languages.same_language(target, str(own)):
        raise BadOption(f"{spec.model} translates into {own}, not into {target}.")
    return Dialect()


def language_coders(
    spec: Spec, config: Mapping[str, Any], tokens: Tokens, limit_tokens: int
) -> LanguageCoders | None:
    """Return coders of texts by their language; None for a model of one direction, which is told none."""
    if spec.params.get("source_lang") != languages.AUTO:
        return None
    model_type = str(config.get("model_type", ""))
    if model_type in families.PREFIXED:
        return _worded_coders(spec, config, tokens, limit_tokens)
    if model_type in families.MULTILINGUAL:
        return _tokened_coders(spec, tokens, limit_tokens)
    return None


def _worded_coders(spec: Spec, config: Mapping[str, Any], tokens: Tokens, limit_tokens: int) -> LanguageCoders:
    target = str(spec.params["target_lang"])

    @cache
    def coder(language: str) -> TokenCoder:
        return TokenCoder(tokens.framed(wording(config, language, target)), limit_tokens)

    stated = frozenset(map(languages.plain, worded_pairs(config, target)))
    return LanguageCoders(coder, stated or None)


def _tokened_coders(spec: Spec, tokens: Tokens, limit_tokens: int) -> LanguageCoders:
    known = known_languages(tokens.tokenizer)
    place = _label_place(spec, tokens, frozenset(known.values()))

    @cache
    def coder(language: str) -> TokenCoder:
        return TokenCoder(tokens.labelled(place, known[languages.match(language, known)]), limit_tokens)

    plain = (languages.plain(code) for code in known if languages.short_code(code))
    return LanguageCoders(coder, frozenset(plain))


def _label_place(spec: Spec, tokens: Tokens, labels: frozenset[int]) -> int:
    """Return the place of the language among a text's tokens, from the end if it stands behind the text."""
    found = []
    for encoded in tokens.encode(["", "a"]):
        ids = encoded.ids
        found.append([(place, place - len(ids)) for place, token in enumerate(ids) if token in labels])
    if any(len(places) != 1 for places in found):
        raise CannotServe(f"The tokenizer of {spec.model} shows no source language: give --from.")
    ((front, back),), ((other_front, other_back),) = found
    assert front == other_front or back == other_back
    return front if front == other_front else back
