"""The inputs and outputs of an encoder-decoder model under a spec, for each library that computes it.

A prefix of words or tokens tells some models their task. If the languages of texts are detected, the coder of its
language gives each text its prefix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from docmill.storage import templates
from docmill.storage.core.specs import Spec
from docmill.storage.outputs.output_types import N
from docmill.storage.templates import keeps_white_space
from docmill.tasks import kinds, languages
from docmill.tasks.backends.decoding import (
    MAX_NEW_TOKENS,
    NEUTRAL_AT_ONE,
    SAME,
    SHAPES,
    as_list,
    cut_at,
    require_least,
    sampling_settings,
)
from docmill.tasks.backends.loading import Opening
from docmill.tasks.backends.tokens import TokenCoder, Tokens
from docmill.tasks.errors import BadOption, CannotServe
from docmill.tasks.kinds import answer, instruction
from docmill.tasks.kinds.answer import require_room
from docmill.tasks.kinds.base import Traits
from docmill.tasks.models import families
from docmill.tasks.outputs import Generated, Likelihood

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

# The settings of a plain search, and settings without effect in a search without sampling.
_PLAIN = frozenset(
    {
        "num_beams", "max_length", "max_new_tokens", "min_length", "min_new_tokens", "length_penalty",
        "early_stopping", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "forced_bos_token_id",
        "forced_eos_token_id", "eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id",
        "renormalize_logits", "do_sample", *SHAPES, "use_cache", "transformers_version",
    }
)  # fmt: skip
_TRANSLATION = "translation"  # the name of the task in a config
_PAIR = re.compile(r"translation_([a-z]{2,3})_to_([a-z]{2,3})")
_LANGUAGE_TOKEN = re.compile(r"__([a-z]{2,3})__|([a-z]{2,3}_[A-Z]{2}|[a-z]{3}_[A-Z][a-z]{3})")


# The token ids of an output up to its end, and the likelihood of the tokens that the settings did not force.
Written = tuple[Sequence[int], Likelihood | None]


class Generation:
    """The tokens that a model reads, and the settings with which it writes.

    ``settings`` is the model's own GenerationConfig, completed in place. A None in it stands for the library's
    default. Raises BadOption and CannotServe if the spec does not fit the model.
    """

    def __init__(self, opening: Opening, settings: GenerationConfig) -> None:
        spec, config = opening.spec, opening.config.to_dict()
        dialect = find_dialect(spec, config, opening.tokenizer)
        self._stripped = not keeps_white_space(spec.params)
        self.tokens = Tokens(opening.tokenizer, prefix=dialect.prefix)
        if "prompt" in spec.params:
            frame = instruction(spec, chat=False)
            self.tokens = self.tokens.framed(frame.before, frame.after, (self._stripped, self._stripped))
        self.limit_tokens = self.tokens.window_limit(spec, opening.config)
        self.traits = replace(
            language_traits(spec, config, self.tokens, self.limit_tokens),
            direction=families.direction_of_folder(opening.folder),
            pairs=self._pairs(spec),
        )
        set_generation(settings, spec, dialect)
        self.settings = settings
        self.beams: int = settings.num_beams or 1
        self.most_new_tokens: int = settings.max_new_tokens or settings.max_length - 1
        self.ends = frozenset(as_list(settings.eos_token_id))
        self.n: int = spec.params.get(N, 1)
        self._stop = tuple(spec.params.get("stop") or ())
        require_least(spec, self.most_new_tokens)

    def _pairs(self, spec: Spec) -> Callable[[str], TokenCoder] | None:
        """Return the function from a question to its coder; None for a spec without questions.

        Raises CannotServe for a question that is too long.
        """
        if templates.questions(spec.params) is None:
            return None

        def pairs(question: str) -> TokenCoder:
            return TokenCoder(self.tokens.framed(answer.prefix(question)).encode, self.limit_tokens)

        require_room(spec.params, pairs)
        return pairs

    @property
    def unusual(self) -> list[str]:
        """The settings beyond a plain greedy or beam search, such as sampling and other penalties."""
        stated = self.settings.to_diff_dict().items()
        names = sorted(name for name, value in stated if not _is_neutral(name, value))
        return ["do_sample", *names] if self.settings.do_sample else names

    def written(self, ids: Sequence[int], log_probabilities: Sequence[float]) -> Written:
        """Return an output from ids without the start token. They may end with padding."""
        end = next((place + 1 for place, token in enumerate(ids) if token in self.ends), None)
        if end is None:  # at the limit, or at a stop text
            pad = self.settings.pad_token_id
            end = next((place for place in range(len(ids), 0, -1) if ids[place - 1] != pad), 0)
        is_forced = end == self.most_new_tokens and self.settings.forced_eos_token_id is not None
        first = 0 if self.settings.forced_bos_token_id is None else 1
        return ids[:end], Likelihood.of(log_probabilities[first : end - is_forced])

    def outputs(self, written: Sequence[Written]) -> list[Generated]:
        """Return the decoded outputs."""
        texts = self.tokens.tokenizer.batch_decode([ids for ids, _ in written], skip_special_tokens=True)
        return [
            self._make_output(text, len(ids), likelihood)
            for text, (ids, likelihood) in zip(texts, written, strict=True)
        ]

    def _make_output(self, text: str, tokens: int, likelihood: Likelihood | None) -> Generated:
        cut = cut_at(text, self._stop)
        # At the limit, a forced end looks like the model's own end.
        truncated = cut is None and tokens >= self.most_new_tokens
        kept = text if cut is None else cut
        return Generated(kept.strip() if self._stripped else kept, tokens, truncated, likelihood)


def _is_neutral(name: str, value: object) -> bool:
    # A setting of 0, false or None has no effect.
    if name in _PLAIN or name.startswith(("_", "output_", "return_dict")) or not value:
        return True
    return name in {*NEUTRAL_AT_ONE, "repetition_penalty"} and value == 1


def set_generation(generation: GenerationConfig, spec: Spec, dialect: Dialect) -> None:
    """Set how the model writes: by the options, else its own settings, else its config's for the task, else defaults.

    This changes the model's own object, since ``generate`` fills every gap from it. Raises CannotServe for a task's
    setting that transformers does not know.
    """
    for name, value in dialect.parameters.items():
        if name == "prefix" or value is None:
            continue
        if not hasattr(generation, name):
            raise CannotServe(
                f"The config.json of {spec.model} asks for {name}={value} for this task, which docmill does not "
                "support. To write without it, copy the model's folder, take the entry out, and name the copy with "
                "--model."
            )
        if getattr(generation, name) is None:
            setattr(generation, name, value)
    if dialect.forced_bos_token_id is not None:
        generation.forced_bos_token_id = dialect.forced_bos_token_id
    if (beams := spec.params.get("beams")) is not None:
        generation.num_beams = beams
        if beams == 1:
            generation.early_stopping = None
            generation.length_penalty = None
    _set_options(generation, spec)
    _set_number(generation, spec)
    most = spec.params.get("max_new_tokens")
    if most is None and generation.max_length is None and generation.max_new_tokens is None:
        most = MAX_NEW_TOKENS
    if most is not None:
        generation.max_new_tokens = most
        generation.max_length = None
        if generation.min_length is not None:
            generation.min_length = min(generation.min_length, most)
        if generation.min_new_tokens is not None and "min_new_tokens" not in spec.params:
            generation.min_new_tokens = min(generation.min_new_tokens, most)


def _set_number(generation: GenerationConfig, spec: Spec) -> None:
    """Set the number of outputs of a beam search. Raises CannotServe for more outputs than beams, or equal ones."""
    n, beams = spec.params.get(N, 1), generation.num_beams or 1
    if beams == 1 and n > 1 and not generation.do_sample:
        raise CannotServe(SAME.format(n=n))
    if n > beams > 1:
        raise CannotServe(f"--n {n} is more than the {beams} beams of the search: give --beams {n} or more.")
    generation.num_return_sequences = n if beams > 1 else 1


def _set_options(generation: GenerationConfig, spec: Spec) -> None:
    """Set the options that have the same names in transformers, and the settings of sampling.

    Raises CannotServe for options of a beam search without beams.
    """
    of_beams = [name for name in ("length_penalty", "early_stopping") if name in spec.params]
    if of_beams and (generation.num_beams or 1) == 1:
        raise CannotServe(
            f"--{of_beams[0].replace('_', '-')} is for a search by beams, and {spec.model} has no beams: give "
            "--beams, such as --beams 4."
        )
    for name in (*of_beams, "repetition_penalty", "no_repeat_ngram_size"):
        if name in spec.params:
            setattr(generation, name, spec.params[name])
    if "min_new_tokens" in spec.params:
        generation.min_new_tokens, generation.min_length = spec.params["min_new_tokens"], None
    if "stop" in spec.params:
        generation.stop_strings = list(spec.params["stop"])
    if generation.do_sample or any(name in spec.params for name in SHAPES):
        own = {name: getattr(generation, name, None) for name in ("do_sample", *SHAPES)}
        shaped = sampling_settings(spec.params, own)
        generation.do_sample = bool(shaped)
        for name in SHAPES:
            setattr(generation, name, shaped.get(name))


@dataclass(frozen=True)
class Dialect:
    """The way to tell a model its task.

    ``prefix`` comes before every window, and ``forced_bos_token_id`` starts every output. ``parameters`` are the
    config's generation parameters for the task.
    """

    prefix: str = ""
    forced_bos_token_id: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


def find_dialect(spec: Spec, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Dialect:
    """Return the dialect of a model. If the tokenizer has a source language, set it.

    Raises BadOption for languages that the model does not know, and CannotServe for missing languages.
    """
    model_type = str(config.get("model_type", ""))
    built_in = kinds.kind(spec.kind).built_in
    if built_in is None:
        return Dialect()
    if not built_in.languages:
        settings = families.task_settings(config, built_in.settings)
        # Older specs have no prefix parameter, and mean these words with every T5.
        usual = settings.get("prefix", built_in.prefix if model_type in families.PREFIXED else "")
        return Dialect(str(spec.params.get("prefix", usual) or ""), parameters=settings)
    source, target = spec.params.get("source_lang"), spec.params.get("target_lang")
    if model_type in families.PREFIXED:
        if source == languages.AUTO:
            return Dialect(parameters=_require_agreement(spec, worded_pairs(config, str(target))))
        return _word_dialect(spec, config, source, target)
    if model_type in families.MULTILINGUAL:
        known = known_languages(tokenizer)
        if source == languages.AUTO:
            source = min(known)  # each text gets its own language later
        source, target = _require_both(spec, source, target)
        tokenizer.src_lang = languages.match(source, known)
        return Dialect(forced_bos_token_id=known[languages.match(target, known)])
    if model_type == "marian":
        return _marian_dialect(spec, tokenizer, target)
    return Dialect(parameters=families.task_settings(config, _TRANSLATION))


def _require_both(spec: Spec, source: str | None, target: str | None) -> tuple[str, str]:
    if source is None or target is None:
        raise CannotServe(f"{spec.model} translates between several languages: give --from and --to.")
    return source, target


def _word_dialect(spec: Spec, config: Mapping[str, Any], source: str | None, target: str | None) -> Dialect:
    """Return the dialect of a T5: the spec's own prefix, or the words for the pair of languages."""
    if "prefix" in spec.params:
        words = str(spec.params["prefix"])
        pair = None if source is None or target is None else _shorten_codes(source, target)
    else:
        source, target = _require_both(spec, source, target)
        words, pair = wording(config, source, target), _shorten_codes(source, target)
    return Dialect(words, parameters=families.task_settings(config, _TRANSLATION, pair))


def _shorten_codes(source: str, target: str) -> tuple[str, str]:
    return languages.short_code(source) or source, languages.short_code(target) or target


def wording(config: Mapping[str, Any], source: str, target: str) -> str:
    """Return the words that tell a T5 a pair of languages."""
    settings = families.task_settings(config, _TRANSLATION, _shorten_codes(source, target))
    return str(settings.get("prefix") or f"translate {languages.name(source)} to {languages.name(target)}: ")


def worded_pairs(config: Mapping[str, Any], target: str) -> dict[str, Mapping[str, Any]]:
    """Return a config's settings for each source language with this target, without their prefix."""
    pairs: dict[str, Mapping[str, Any]] = {}
    for name, settings in (config.get("task_specific_params") or {}).items():
        match = _PAIR.fullmatch(name)
        if match and languages.same_language(match.group(2), target):
            pairs[match.group(1)] = {key: value for key, value in settings.items() if key != "prefix"}
    return pairs


def _require_agreement(spec: Spec, pairs: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the generation parameters of all pairs. Raises CannotServe if they differ, since pairs share batches."""
    first, *others = pairs.values() or ({},)
    if any(other != first for other in others):
        raise CannotServe(f"{spec.model} writes differently for each source language: give --from.")
    return first


def known_languages(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the token ids of a multilingual tokenizer's languages, by code."""
    known = dict(getattr(tokenizer, "lang_code_to_id", {}))  # M2M100's
    for token, number in tokenizer.get_vocab().items():
        if match := _LANGUAGE_TOKEN.fullmatch(token):
            known[match.group(1) or match.group(2)] = number
    return known


def _marian_dialect(spec: Spec, tokenizer: PreTrainedTokenizerBase, target: str | None) -> Dialect:
    """Return the dialect of a Marian model. It has one direction, or target tokens such as ``>>fra<<``."""
    tokens = {token.strip("><"): token for token in getattr(tokenizer, "supported_language_codes", ())}
    if len(tokens) > 1 and target is None:
        examples = ", ".join(sorted(tokens)[:12])
        raise CannotServe(f"{spec.model} translates into several languages: give --to, one of {examples}.")
    if tokens and target is not None:
        return Dialect(prefix=f"{tokens[languages.match(target, tokens)]} ")
    own = getattr(tokenizer, "target_lang", None)
    if target is not None and own and not languages.same_language(target, str(own)):
        raise BadOption(f"{spec.model} translates into {own}, not into {target}.")
    return Dialect()


def language_traits(spec: Spec, config: Mapping[str, Any], tokens: Tokens, limit_tokens: int) -> Traits:
    """Return the coders of texts by their language; none for a model with one direction."""
    if spec.params.get("source_lang") != languages.AUTO:
        return Traits()
    model_type = str(config.get("model_type", ""))
    if model_type in families.PREFIXED:
        return _worded_coders(spec, config, tokens, limit_tokens)
    if model_type in families.MULTILINGUAL:
        return _tokened_coders(spec, tokens, limit_tokens)
    return Traits()


def _worded_coders(spec: Spec, config: Mapping[str, Any], tokens: Tokens, limit_tokens: int) -> Traits:
    target = str(spec.params["target_lang"])

    @cache
    def coder(language: str) -> TokenCoder:
        return TokenCoder(tokens.framed(wording(config, language, target)).encode, limit_tokens)

    stated = frozenset(map(languages.plain, worded_pairs(config, target)))
    return Traits(language_coders=coder, languages=stated or None)


def _tokened_coders(spec: Spec, tokens: Tokens, limit_tokens: int) -> Traits:
    known = known_languages(tokens.tokenizer)
    place = _label_place(spec, tokens, frozenset(known.values()))

    @cache
    def coder(language: str) -> TokenCoder:
        return TokenCoder(tokens.labeled(place, known[languages.match(language, known)]).encode, limit_tokens)

    plain = (languages.plain(code) for code in known if languages.short_code(code))
    return Traits(language_coders=coder, languages=frozenset(plain))


def _label_place(spec: Spec, tokens: Tokens, labels: frozenset[int]) -> int:
    """Return the place of the language token, counted from the end if it comes after the text."""
    each = []
    for encoded in tokens.encode(["", "a"]):
        ids = encoded.ids
        each.append([(place, place - len(ids)) for place, token in enumerate(ids) if token in labels])
    if any(len(places) != 1 for places in each):
        raise CannotServe(f"The tokenizer of {spec.model} shows no source language: give --from.")
    ((front, back),), ((other_front, other_back),) = each
    assert front == other_front or back == other_back
    return front if front == other_front else back
