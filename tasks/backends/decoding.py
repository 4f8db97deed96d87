"""The generation settings of a decoder-only model under a spec: given options, else the model's own, else ours."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from docmill.storage.core.specs import Spec
from docmill.storage.outputs.output_types import SCHEMA, N
from docmill.storage.templates import keeps_white_space
from docmill.tasks.errors import CannotServe
from docmill.tasks.kinds.generate import FILL_CONTEXT
from docmill.tasks.models.families import task_settings

One = TypeVar("One", int, str)

# The longest output if neither the command nor the model's files name one.
MAX_NEW_TOKENS = 256
MAX_NEW_TOKENS_OF_RECORDS = 1024
SAME = "--n {n} asks for outputs that would all be the same: sample them, with --temperature and the like."
# Options that ask for samples or shape them. Settings have the same names.
SHAPES = ("temperature", "top_p", "top_k", "min_p")
# Settings of a generation_config that docmill follows.
FOLLOWED = frozenset(
    {
        "do_sample", *SHAPES, "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens",
        "max_new_tokens", "max_length", "min_new_tokens", "min_length", "eos_token_id", "stop_strings",
    }
)  # fmt: skip
# Settings that change no output of a decoder-only model without beams: they concern speed, or what transformers
# returns.
WITHOUT_EFFECT = frozenset(
    {
        "pad_token_id", "bos_token_id", "decoder_start_token_id", "early_stopping", "length_penalty",
        "renormalize_logits", "return_dict_in_generate", "output_attentions", "output_hidden_states", "output_scores",
        "output_logits", "use_cache", "cache_implementation", "cache_config", "max_cache_len", "compile_config",
        "disable_compile", "continuous_batching_config", "prefill_chunk_size", "low_memory", "use_mtp",
        "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
        "assistant_early_exit", "assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight",
        "speculation_type", "prompt_lookup_num_tokens", "max_matching_ngram_size", "transformers_version",
    }
)  # fmt: skip
# Settings that docmill follows, but not for records: they could forbid all tokens that a schema allows.
EXCLUDE_RECORDS = frozenset(
    {"no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "min_new_tokens", "min_length"}
)
# Settings that have no effect on greedy outputs.
OF_SAMPLES = frozenset({"top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"})
# Settings that are off at 1.
NEUTRAL_AT_ONE = frozenset(
    {
        "num_beams", "num_beam_groups", "num_return_sequences", "guidance_scale", "encoder_repetition_penalty",
        "typical_p",
    }
)  # fmt: skip
# Settings that are off at 0, false or empty. docmill refuses any other setting.
NEUTRAL_AT_NOTHING = frozenset(
    {
        "diversity_penalty", "penalty_alpha", "encoder_no_repeat_ngram_size", "epsilon_cutoff", "eta_cutoff",
        "remove_invalid_values", "token_healing", "begin_suppress_tokens", "sequence_bias", "constraints",
        "force_words_ids",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Decoding:
    """The settings by which a model writes its outputs.

    The decoding is greedy at a ``temperature`` of 0. Otherwise tokens are sampled from the ``top_k`` likeliest (0:
    from all), from the fewest of these whose probabilities add up to ``top_p``, without those that have less than
    ``min_p`` times the highest probability. An output ends at a token of ``ends`` (not before ``min_new_tokens``, nor
    before prompt and output have ``min_length``), before a text of ``stop``, after a text of ``closing``, or at the
    limit.

    The limit is ``max_new_tokens``. With ``max_tokens``, prompt and output may have that many tokens together, and
    ``max_new_tokens`` is the room that a window leaves for the output. The model writes no sequence of
    ``bad_words_ids`` and no token of ``suppress_tokens``. ``stripped`` outputs lose white space at their ends. Each
    window has ``n`` outputs.
    """

    max_new_tokens: int
    ends: frozenset[int] = frozenset()
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    min_new_tokens: int = 0
    min_length: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    closing: tuple[str, ...] = ()
    max_tokens: int | None = None
    stripped: bool = True
    n: int = 1

    def most_new_tokens(self, prompt_tokens: int) -> int:
        """Return the most tokens of the output after a prompt of this length."""
        return self.max_new_tokens if self.max_tokens is None else self.max_tokens - prompt_tokens

    @property
    def samples(self) -> bool:
        return self.temperature > 0


def seed_of(seed: int, ids: Sequence[int], number: int = 0) -> int:
    """Return the seed for one window, from the spec's seed and the window's tokens. It is the same in any batch.

    ``number`` counts the outputs of a window from 0. The first output is that of a spec with one output.
    """
    begin = f"{seed} " if number == 0 else f"{seed} {number} "
    read = hashlib.sha256(begin.encode() + array("i", ids).tobytes()).digest()
    return int.from_bytes(read[:8], "little") >> 1


def own_settings(config: Mapping[str, Any], *generation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the generation settings in a model's files. Later mappings override earlier ones.

    All override the config's settings for the task text-generation. A setting of None counts as missing.
    """
    stated = [(name, value) for settings in generation for name, value in settings.items() if value is not None]
    return task_settings(config, "text-generation") | dict(stated)


def choose_decoding(spec: Spec, own: Mapping[str, Any], context_tokens: int, stop: tuple[str, ...] = ()) -> Decoding:
    """Return the decoding of a spec by a model with these settings of its ``own`` and a context of so many tokens.

    The model samples if its settings or the spec's options ask for it. Raises CannotServe for settings that docmill
    does not follow.
    """
    options = spec.params
    settings = {**own, **options}
    # A record ends with its JSON, and may contain a stop text.
    is_record = SCHEMA in options
    sampling = sampling_settings(options, own)
    _require_followed(spec.model, own, sampled=bool(sampling), is_record=is_record)
    fills = bool(options.get(FILL_CONTEXT))
    max_new_tokens = 1 if fills else settings.get("max_new_tokens")
    most = MAX_NEW_TOKENS_OF_RECORDS if is_record else MAX_NEW_TOKENS
    max_length = None if max_new_tokens else own.get("max_length")
    if max_length is not None and max_length < context_tokens:
        raise CannotServe(
            f"The files of {spec.model} allow prompt and output {max_length} tokens together (max_length), which "
            "leaves no fixed room for documents. Give --max-new-tokens, which replaces it."
        )
    decoding = Decoding(
        max_new_tokens=max_new_tokens or min(most, context_tokens // 2),
        ends=frozenset(as_list(own.get("eos_token_id"))),
        stop=() if is_record else stop,
        seed=options.get("seed", 0),
        repetition_penalty=float(settings.get("repetition_penalty") or 1.0),
        no_repeat_ngram_size=settings.get("no_repeat_ngram_size") or 0,
        min_new_tokens=settings.get("min_new_tokens") or 0,
        # min_new_tokens replaces min_length, as in transformers.
        min_length=own.get("min_length") or 0 if settings.get("min_new_tokens") is None else 0,
        bad_words_ids=tuple(map(tuple, own.get("bad_words_ids") or ())),
        suppress_tokens=tuple(as_list(own.get("suppress_tokens"))),
        closing=() if is_record or "stop" in options else tuple(as_list(own.get("stop_strings"))),
        max_tokens=context_tokens if fills or max_length is not None else None,
        stripped=not keeps_white_space(spec.params),
        n=options.get(N, 1),
        **sampling,
    )
    if decoding.n > 1 and not sampling:
        raise CannotServe(SAME.format(n=decoding.n))
    if fills:
        return decoding
    require_least(spec, decoding.max_new_tokens)
    return replace(decoding, min_new_tokens=min(decoding.min_new_tokens, decoding.max_new_tokens))


def require_least(spec: Spec, most: int) -> None:
    """Raise CannotServe if the shortest output that a spec allows is longer than ``most``."""
    least = spec.params.get("min_new_tokens") or 0
    if least > most:
        raise CannotServe(
            f"--min-new-tokens {least:,} is more than the {most:,} tokens that {spec.model} writes at most here. "
            "Give --max-new-tokens, too."
        )


def sampling_settings(options: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of sampling under these options and a model's own settings; {} for greedy outputs."""
    chosen = {name: options[name] for name in SHAPES if name in options}
    if not chosen and not own.get("do_sample"):
        return {}
    # top_k is 0 by default, not 50 as in transformers: the specs of earlier results have it so.
    stated = {name: own[name] for name in SHAPES if own.get(name) is not None} if own.get("do_sample") else {}
    shaped = {"temperature": 1.0, "top_k": 0, **stated, **chosen}
    return {} if shaped["temperature"] == 0 else shaped


def _require_followed(model: str, own: Mapping[str, Any], *, sampled: bool, is_record: bool) -> None:
    """Raise CannotServe for a setting that changes outputs and that docmill does not follow."""
    known = FOLLOWED | WITHOUT_EFFECT | (frozenset() if sampled else OF_SAMPLES)
    known -= EXCLUDE_RECORDS if is_record else frozenset()
    for name, value in own.items():
        at_nothing = name in NEUTRAL_AT_NOTHING | EXCLUDE_RECORDS and not value
        neutral = at_nothing or (name in NEUTRAL_AT_ONE and value == 1)
        if name in known or name.startswith("_") or value is None or neutral:
            continue
        raise CannotServe(
            f"The files of {model} ask for {name}={value}, which docmill does not do with decoder-only models. To "
            "write without it, copy the model's folder, take the entry out of generation_config.json (or out of "
            "task_specific_params in config.json), and name the copy with --model."
        )


def as_list(value: One | list[One] | tuple[One, ...] | None) -> list[One]:
    """Return the values of a setting that is None, a value, or a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def cut_at(text: str, stop: Sequence[str]) -> str | None:
    """Return the text before the first of its ``stop`` texts; None if it has none of them."""
    places = [place for ending in stop if (place := text.find(ending)) >= 0]
    return text[: min(places)] if places else None
