"""Facts about a model from its small files, without torch: its family, its type of encoder, its languages."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from docmill.storage.json_values import Json
from docmill.tasks import languages
from docmill.tasks.errors import BadOption, ModelUnsuitable


class Family(StrEnum):
    ENCODER = "encoder-only"
    SEQ2SEQ = "encoder-decoder"
    DECODER = "decoder-only"
    GLINER = "GLiNER"


# Models that read and write several languages, and must be told which.
MULTILINGUAL = frozenset({"m2m_100", "mbart", "nllb-moe", "nllb_moe", "seamless_m4t", "plbart"})
# Models that are told their task by words at the start of the input. They have relative positions: their config
# states the length of training, and they read longer texts.
PREFIXED = frozenset({"t5", "mt5", "umt5", "longt5", "switch_transformers"})
# Models whose position ids start after the padding index: two of the positions are never used.
OFFSET = frozenset(
    {
        "camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta",
        "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
    }
)  # fmt: skip

# Models with layers that keep a state. In other models, the types of layers say so.
STATEFUL = frozenset(
    {
        "bailing_hybrid", "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "kimi_linear", "mamba",
        "mamba2", "nemotron_h", "olmo_hybrid", "qwen3_5", "qwen3_5_moe", "qwen3_next", "recurrent_gemma", "rwkv",
        "xlstm", "zamba", "zamba2",
    }
)  # fmt: skip
_STATE_LAYERS = frozenset({"linear_attention", "mamba", "mamba2", "conv", "recurrent", "hybrid"})

# Names in configurations for the number of positions.
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
    """Return the family of a model; None if its config does not say."""
    if Family.GLINER in (config.get("architectures") or ()):
        return Family.GLINER
    if config.get("is_encoder_decoder"):
        return Family.SEQ2SEQ
    names = config.get("architectures") or ()
    if any(word in name for name in names for word in ("Seq2Seq", "ConditionalGeneration", "MTModel")):
        return Family.DECODER if "text_config" in config else Family.SEQ2SEQ  # a decoder that also reads images
    model_type = str(config.get("model_type", ""))
    if model_type in PREFIXED:
        return Family.SEQ2SEQ
    if any(word in name for name in names for word in _DECODER_WORDS):
        return Family.DECODER
    if any(model_type.startswith(name) for name in _DECODER_TYPES):
        return Family.DECODER
    return Family.ENCODER if model_type or names else None


def stateful(config: Mapping[str, Any]) -> bool:
    """Return True if some layers of a model keep a state in place of keys and values."""
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

    The rule is that of transformers' zero-shot-classification.
    """
    labels = config.get("label2id") or {name: int(place) for place, name in (config.get("id2label") or {}).items()}
    entailed = next((place for label, place in labels.items() if str(label).lower().startswith("entail")), None)
    return None if entailed is None else (entailed, -1 if entailed == 0 else 0)


def window_limit(config: Mapping[str, Any], *others: int | None) -> int:
    """Return the most tokens of one window, with special tokens.

    It is the smallest limit in the config and in ``others`` (the tokenizer's limit, sentence-transformers'
    max_seq_length), or OUR_LIMIT_TOKENS if there is none.
    """
    limits = [limit for limit in others if limit is not None and 0 < limit < _NO_LIMIT]
    model_type = str(config.get("model_type", ""))
    if model_type not in PREFIXED or not limits:
        positions = [config[name] for name in _POSITIONS if isinstance(config.get(name), int) and config[name] > 0]
        limits += [count - 2 if model_type in OFFSET else count for count in positions]
    return min(limits, default=OUR_LIMIT_TOKENS)


def positions(config: Mapping[str, Any]) -> int | None:
    """Return the most tokens that a model can write or hold; None if its config sets no limit."""
    config = config.get("text_config") or config
    if str(config.get("model_type", "")) in PREFIXED:
        return None
    named = ("max_decoder_position_embeddings", "max_target_positions", *_POSITIONS)
    return next((config[name] for name in named if isinstance(config.get(name), int) and config[name] > 0), None)


def task_settings(config: Mapping[str, Any], task: str, pair: tuple[str, str] | None = None) -> dict[str, Any]:
    """Return a config's settings for a task, as of T5 and BART: the prefix and generation parameters.

    ``task`` is the name in the config, such as ``summarization``. ``pair`` has the languages of a translation.
    """
    name = task if pair is None else f"{task}_{pair[0]}_to_{pair[1]}"
    return dict((config.get("task_specific_params") or {}).get(name) or {})


def knows_prefix(config: Mapping[str, Any], task: str) -> bool:
    """Return True if a T5 was trained with a prefix for a task: its config has the prefix, or it is a first T5.

    T5 1.1, mT5, UMT5, LongT5 and Switch have gated layers or another type, and were trained without prefixes.
    """
    if "prefix" in task_settings(config, task):
        return True
    return config.get("model_type") == "t5" and config.get("feed_forward_proj", "relu") == "relu"


def parse_or_none(data: bytes | None) -> Json:
    """Return the value of a JSON text; None for no text or invalid JSON."""
    try:
        value: Json = json.loads(data or b"")  # not orjson: configurations of some models hold Infinity
    except ValueError:
        return None
    return value


def parse_object(data: bytes | None) -> dict[str, Json]:
    """Return the object in a JSON text; {} for no text, invalid JSON or another value."""
    value = parse_or_none(data)
    return value if isinstance(value, dict) else {}


def read_file(path: Path) -> bytes | None:
    """Return the bytes of a file; None if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def read_object(path: Path) -> dict[str, Json]:
    """Return the object in a JSON file; {} if there is none."""
    return parse_object(read_file(path))


# The files that describe a model, beside config.json.
DESCRIPTION_FILES = ("modules.json", "config_sentence_transformers.json")


# Types of encoders that do not give one vector for a text.
SPARSE = "a sparse encoder such as SPLADE, which gives a weight for each word of its vocabulary"
TOKENS = "a multi-vector encoder such as ColBERT, which gives a vector for each token"
PAIRS = "a cross-encoder (reranker), which gives a score for a pair of texts"


# By the type in config_sentence_transformers.json, of sentence-transformers and PyLate.
_BY_TYPE: Mapping[str, str] = MappingProxyType(
    {
        "SparseEncoder": SPARSE,
        "MultiVectorEncoder": TOKENS,
        "ColBERT": TOKENS,
        "CrossEncoder": PAIRS,
    }
)
# By a part of a module's class, for older files without a type.
_BY_MODULE: Mapping[str, str] = MappingProxyType(
    {
        ".sparse_encoder.": SPARSE,
        "SpladePooling": SPARSE,
        ".multi_vector_encoder.": TOKENS,
        "pylate.": TOKENS,
        ".cross_encoder.": PAIRS,
    }
)
# A key in config.json of older cross-encoders.
_OF_PAIRS = "sbert_ce_default_activation_function"


@dataclass(frozen=True)
class Description:
    """A model's description in its files: config.json, the type in sentence-transformers, the modules' classes."""

    config: Mapping[str, Any] = field(default_factory=dict)
    sentence_type: str | None = None
    modules: Sequence[str] = ()

    @classmethod
    def of(cls, config: Mapping[str, Any], files: Mapping[str, bytes | None]) -> Description:
        """Return the description in a model's files. Unreadable files are ignored."""
        modules, sentence = (
            parse_or_none(files.get(DESCRIPTION_FILES[0])),
            parse_object(files.get(DESCRIPTION_FILES[1])),
        )
        listed = modules if isinstance(modules, list) else []
        return cls(
            config,
            str(sentence["model_type"]) if sentence.get("model_type") else None,
            tuple(str(module.get("type", "")) for module in listed if isinstance(module, dict)),
        )

    @classmethod
    def of_folder(cls, folder: Path) -> Description:
        return cls.of(
            read_object(folder / "config.json"), {name: read_file(folder / name) for name in DESCRIPTION_FILES}
        )


def find_encoder_type(described: Description) -> str | None:
    """Return the type of a model that does not give one vector for a text; None for a model that may."""
    if (kind := _BY_TYPE.get(described.sentence_type or "")) is not None:
        return kind
    for part, kind in _BY_MODULE.items():
        if any(part in module for module in described.modules):
            return kind
    config, architectures = described.config, described.config.get("architectures") or ()
    if any("ColBERT" in str(name) for name in architectures):
        return TOKENS
    pools = any("Pooling" in module for module in described.modules)
    if _OF_PAIRS in config or (not pools and _scores(config)):
        return PAIRS
    return None


def require_dense(described: Description, model: str, kind: str) -> None:
    """Raise ModelUnsuitable, with the model's type, unless the model gives one vector for a text."""
    if (other := find_encoder_type(described)) is not None:
        instead = ": use the task `sparse` with it" if other == SPARSE else ""
        raise ModelUnsuitable(f"{kind} needs a model that gives one vector for a text; {model} is {other}{instead}.")


def require_sparse(described: Description, model: str, kind: str) -> None:
    """Raise ModelUnsuitable unless the model's files say that it is a sparse encoder, or are not available."""
    if described.config and find_encoder_type(described) != SPARSE:
        raise ModelUnsuitable(
            f"{kind} needs a sparse encoder such as SPLADE, as sentence-transformers saves it; the files of {model} "
            "name no such module."
        )


def _scores(config: Mapping[str, Any]) -> bool:
    """Return True if the model's head gives a single number."""
    labels = config.get("id2label")
    n_labels = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
    return n_labels == 1 and classifier(config) == "sequence classification"


# opus-mt-es-en, opus-mt-tc-big-cat_oci_spa-en.
_OPUS = re.compile(r"opus-mt-(?:tc-(?:big|base|bible-big)-)?([a-z_]+)-([a-z_]+)", re.IGNORECASE)
_TOKEN = re.compile(r">>(.+)<<")


@dataclass(frozen=True)
class Direction:
    """The codes of the languages that a model reads and writes; empty if unknown.

    ``tokens`` are the model's own codes of its target tokens, such as ``>>fra<<``.
    """

    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()

    def __str__(self) -> str:
        sides = (("from", self.sources), ("into", self.targets))
        return " ".join(f"{word} {languages.listed(codes)}" for word, codes in sides if codes)


UNKNOWN = Direction()


def direction_of_name(model: str) -> Direction:
    """Return the languages in the name of an OPUS model such as `Helsinki-NLP/opus-mt-es-en`."""
    match = _OPUS.fullmatch(model.rstrip("/").rpartition("/")[2])
    return Direction(_codes(match.group(1)), _codes(match.group(2))) if match else UNKNOWN


def direction_of_folder(folder: Path) -> Direction:
    """Return the languages of a Marian model from its files or its folder's name; UNKNOWN for other models."""
    if read_object(folder / "config.json").get("model_type") != "marian":
        return UNKNOWN
    named, tokenizer = direction_of_name(folder.name), read_object(folder / "tokenizer_config.json")
    matches = [_TOKEN.fullmatch(token) for token in read_object(folder / "vocab.json")]
    tokens = tuple(sorted(match.group(1) for match in matches if match))
    return Direction(
        _codes(tokenizer.get("source_lang")) or named.sources,
        () if tokens else _codes(tokenizer.get("target_lang")) or named.targets,
        tokens,
    )


def require_direction(direction: Direction, source: str | None, target: str | None, model: str) -> None:
    """Raise BadOption for languages that the model does not translate, and for a missing target language."""
    for option, language, codes in (("--from", source, direction.sources), ("--to", target, direction.targets)):
        if language is not None and codes and not any(languages.same_language(language, code) for code in codes):
            raise BadOption(f"{option} {language}: {model} translates {direction}.")
    if direction.tokens and target is not None:
        languages.match(target, direction.tokens)
    elif len(direction.tokens) > 1:
        examples = ", ".join(direction.tokens[:12])
        raise BadOption(f"{model} translates into several languages: give --to, one of {examples}.")


def _codes(stated: Json) -> tuple[str, ...]:
    """Return the languages in a text such as ``en``, ``fra_Latn`` or ``cat+oci+spa``, if all of them are known.

    Groups of languages (``ROMANCE``, ``gem``, ``mul``) are unknown: no file lists their members.
    """
    if not isinstance(stated, str):
        return ()
    parts = [stated] if languages.short_code(stated) else re.split(r"[+_,\s]+", stated)
    codes = [languages.short_code(part) for part in parts]
    return tuple(code for code in codes if code is not None) if all(codes) else ()
