"""The specs that are frozen: every kind with every option, alone and together, for every family of models."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

Asked = dict[str, Any]
NULL: Mapping[str, Any] = {"revision": "null:1", "config": {}, "prompts": {}}


def _hub(config: Mapping[str, Any], name: str, **more: Any) -> dict[str, Any]:
    return {"revision": hashlib.sha1(name.encode()).hexdigest(), "config": dict(config), **more}


def _t5(**more: Any) -> dict[str, Any]:
    return {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True, **more}


_SUMMARIES = {"summarization": {"prefix": "summarize: ", "max_length": 200, "num_beams": 4}}
_SEQ2SEQ: dict[str, dict[str, Any]] = {
    "hub/t5-small": _t5(feed_forward_proj="relu", n_positions=512, task_specific_params=_SUMMARIES),
    "hub/t5-plain": _t5(),
    "hub/t5-v1_1": _t5(feed_forward_proj="gated-gelu"),
    "hub/t5-tuned": _t5(feed_forward_proj="gated-gelu", task_specific_params=_SUMMARIES),
    "hub/mt5": {"model_type": "mt5", "architectures": ["MT5ForConditionalGeneration"], "is_encoder_decoder": True},
    "hub/umt5": {"model_type": "umt5", "is_encoder_decoder": True},
    "hub/longt5": {"model_type": "longt5", "is_encoder_decoder": True, "n_positions": 4096},
    "hub/switch": {"model_type": "switch_transformers", "is_encoder_decoder": True},
    "hub/bart-cnn": {
        "model_type": "bart",
        "architectures": ["BartForConditionalGeneration"],
        "is_encoder_decoder": True,
        "max_position_embeddings": 1024,
        "task_specific_params": {"summarization": {"max_length": 142, "min_length": 56, "num_beams": 4}},
    },
    "hub/pegasus": {"model_type": "pegasus", "is_encoder_decoder": True, "max_position_embeddings": 512},
    "hub/led": {
        "model_type": "led",
        "is_encoder_decoder": True,
        "max_encoder_position_embeddings": 16384,
        "max_decoder_position_embeddings": 1024,
    },
    "hub/opus-mt-fr-en": {
        "model_type": "marian",
        "architectures": ["MarianMTModel"],
        "is_encoder_decoder": True,
        "max_position_embeddings": 512,
    },
    "hub/opus-mt-de-en": {"model_type": "marian", "architectures": ["MarianMTModel"], "is_encoder_decoder": True},
    "hub/opus-mt-ROMANCE-en": {
        "model_type": "marian",
        "architectures": ["MarianMTModel"],
        "is_encoder_decoder": True,
    },
    "hub/opus-mt-tc-big-cat_oci_spa-en": {"model_type": "marian", "is_encoder_decoder": True},
    "hub/marian": {"model_type": "marian", "architectures": ["MarianMTModel"], "is_encoder_decoder": True},
    "hub/m2m100": {
        "model_type": "m2m_100",
        "architectures": ["M2M100ForConditionalGeneration"],
        "is_encoder_decoder": True,
        "max_position_embeddings": 1024,
    },
    "hub/nllb": {
        "model_type": "m2m_100",
        "architectures": ["M2M100ForConditionalGeneration"],
        "is_encoder_decoder": True,
        "tokenizer_class": "NllbTokenizer",
    },
    "hub/nllb-moe": {"model_type": "nllb-moe", "is_encoder_decoder": True},
    "hub/mbart": {
        "model_type": "mbart",
        "architectures": ["MBartForConditionalGeneration"],
        "is_encoder_decoder": True,
        "max_position_embeddings": 1024,
    },
    "hub/plbart": {"model_type": "plbart", "is_encoder_decoder": True},
}
_DECODERS: dict[str, dict[str, Any]] = {
    "hub/gpt2": {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_positions": 1024},
    "hub/llama": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 8192,
    },
    "hub/mistral": {"model_type": "mistral", "architectures": ["MistralForCausalLM"]},
    "hub/qwen": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "max_position_embeddings": 32768},
    "hub/gemma": {
        "model_type": "gemma3",
        "architectures": ["Gemma3ForCausalLM"],
        "text_config": {"model_type": "gemma3_text", "max_position_embeddings": 32768},
    },
    "hub/smollm": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 2048},
}
_RECURRENT: dict[str, dict[str, Any]] = {
    "hub/mamba": {"model_type": "mamba", "architectures": ["MambaForCausalLM"]},
}
_PROMPTS = {"prompts": {"query": "Q: ", "document": "D: ", "sts": ""}, "default_prompt_name": "query"}
_ENCODERS: dict[str, dict[str, Any]] = {
    "hub/bert": {"model_type": "bert", "architectures": ["BertModel"], "max_position_embeddings": 512},
    "hub/roberta": {"model_type": "roberta", "architectures": ["RobertaModel"], "max_position_embeddings": 514},
    "hub/distilbert": {"model_type": "distilbert", "architectures": ["DistilBertModel"]},
    "hub/mpnet": {"model_type": "mpnet", "architectures": ["MPNetModel"], "max_position_embeddings": 514},
    "hub/xlm-roberta": {"model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"]},
    "hub/modernbert": {"model_type": "modernbert", "architectures": ["ModernBertModel"]},
    "hub/bert-classifier": {"model_type": "bert", "architectures": ["BertForSequenceClassification"]},
    "hub/e5": {"model_type": "bert", "architectures": ["BertModel"]},
}
_DIRECTIONS: dict[str, Any] = {
    "hub/opus-mt-fr-en": {"sources": ["fr"], "targets": ["en"]},
    "hub/opus-mt-de-en": {"sources": ["de"], "targets": ["en"]},
    "hub/opus-mt-ROMANCE-en": {"targets": ["en"]},
    "hub/opus-mt-tc-big-cat_oci_spa-en": {"sources": ["ca", "oc", "es"], "targets": ["en"]},
}


def models() -> dict[str, dict[str, Any]]:
    """Return each model's revision and what its files say."""
    found = {
        name: _hub(config, name, **({"direction": _DIRECTIONS[name]} if name in _DIRECTIONS else {}))
        for name, config in (_SEQ2SEQ | _DECODERS | _RECURRENT | _ENCODERS).items()
    }
    found["hub/e5"]["prompts"] = _PROMPTS
    # Nothing is known of these files where the job is made.
    found["hub/away"] = _hub({}, "hub/away")
    found["/models/local"] = {"revision": f"sha256:{'ab' * 32}", "config": _ENCODERS["hub/bert"]}
    return found | {"null": dict(NULL), "null@2000": dict(NULL)}


_ALONE: tuple[Asked, ...] = (
    {},
    *({"beams": number} for number in (1, 4)),
    *({"max-new-tokens": number} for number in (1, 64, 400)),
    *({"window-tokens": number} for number in (8, 256)),
    *(
        {"dtype": name}
        for name in ("auto", "native", "float32", "fp32", "bfloat16", "bf16", "float16", "fp16", "int8")
    ),
    *({"prefix": words} for words in ("", "summarize: ", "résumé :\n")),
    *({"pooling": name} for name in ("cls", "mean", "last")),
    *({"windows": name} for name in ("mean", "all")),
    *({"prompt-name": name} for name in ("query", "document", "sts")),
)
_TO_DECODERS: tuple[Asked, ...] = (
    {"system": "You answer in French."},
    *({"temperature": number} for number in (0, 0.0, 0.7, 1, 1.0)),
    *({"top-p": number} for number in (0.9, 1, 1.0)),
    *({"top-k": number} for number in (0, 50)),
    *({"seed": number} for number in (0, 7, 2**31 - 1)),
    {"stop": ["\n"]},
    {"stop": ["\n\n", "###"]},
)
_PROMPT_TEXTS = (
    "{text}",
    "Sum up: {text}\nSummary:",
    "Title: {meta.title}\n{text}",
    "  keep   white space \t{text} \n",
    "{{not a field}} {text} «é» \U0001f600",
)
_TOGETHER: tuple[Asked, ...] = (
    {"beams": 2, "max-new-tokens": 30, "window-tokens": 64, "dtype": "float32"},
    {"beams": 1, "max-new-tokens": 40, "dtype": "int8", "seed": 3},
    {"prefix": "sum: ", "beams": 2, "dtype": "bf16"},
    {"pooling": "mean", "windows": "all", "window-tokens": 128, "dtype": "fp32"},
    {"pooling": "last", "prompt": "passage: {text}", "dtype": "float16"},
    {"windows": "mean", "prompt-name": "document", "dtype": "int8"},
    {
        "prompt": "Say: {text}",
        "system": "Be brief.",
        "temperature": 0.8,
        "top-p": 0.95,
        "top-k": 40,
        "seed": 1,
        "stop": ["\n", "END"],
        "max-new-tokens": 100,
        "window-tokens": 512,
        "dtype": "bfloat16",
    },
    {"prompt": "Say: {text}", "temperature": 1, "seed": 5},
    {"system": "Be brief.", "temperature": 0.5, "max-new-tokens": 50, "stop": ["\n"]},
)
_LANGUAGES: tuple[Asked, ...] = (
    {},
    {"from": "fr"},
    {"to": "en"},
    {"from": "fr", "to": "en"},
    {"from": "French", "to": "English"},
    {"from": "fra_Latn", "to": "eng_Latn"},
    {"from": "fr_XX", "to": "en_XX"},
    {"from": "es", "to": "en"},
    {"from": "de", "to": "en"},
    {"from": "auto"},
    {"from": "auto", "to": "en"},
    {"from": "auto", "to": "eng_Latn"},
    {"from": "auto", "to": "fr"},
)
_OF_LANGUAGES: tuple[Asked, ...] = (
    {"beams": 2},
    {"max-new-tokens": 64, "window-tokens": 128},
    {"dtype": "fp16"},
    {"prefix": "translate: "},
    {"prompt": "From French: {text}\nEnglish:"},
    {"system": "You translate.", "temperature": 0.3, "seed": 2, "top-p": 0.5, "top-k": 9, "stop": ["\n"]},
)
_POLYGLOTS = (
    "fr=hub/opus-mt-fr-en,de=hub/opus-mt-de-en",
    "de=hub/opus-mt-de-en, French = hub/opus-mt-fr-en",
    "es=hub/marian,fr=hub/m2m100",
    "ca=hub/opus-mt-tc-big-cat_oci_spa-en,de=hub/nllb,fr=hub/llama",
    "fr=hub/t5-small,es=hub/mbart",
    "fr=null,de=null@2000",
)


# One model of each family gets every option; its relatives get those that may differ between them.
_EVERY_OPTION = frozenset(
    {"hub/t5-small", "hub/bart-cnn", "hub/opus-mt-fr-en", "hub/nllb", "hub/llama", "hub/bert", "null"}
)
_SOME = (*_ALONE[:3], *({"dtype": name} for name in ("fp32", "int8")), {"prefix": "summarize: "}, *_TOGETHER)
_SOME_OF_LANGUAGES = (_OF_LANGUAGES[0], _OF_LANGUAGES[4])


def asked() -> Iterator[tuple[str, str, Asked]]:
    """Yield kind, model and options. Some do not fit together and are left out by whoever makes specs of them."""
    for model in models():
        all_options = model in _EVERY_OPTION
        many = _every_option() if all_options else _SOME
        for kind in ("summarize", "translate", "embed", "generate"):
            yield from ((kind, model, _BASES.get(kind, {}) | options) for options in many)
        of_languages = _OF_LANGUAGES if all_options else _SOME_OF_LANGUAGES
        for options in (*_LANGUAGES, *_both(of_languages)):
            yield "translate", model, options
    for model in _POLYGLOTS:
        for options in ({}, *_OF_LANGUAGES, {"dtype": "int8"}, {"beams": 1, "dtype": "bf16"}):
            yield "translate", model, {"from": "auto", "to": "en", **options}
        yield "translate", model, {"from": "auto"}


_BASES: Mapping[str, Asked] = {"generate": {"prompt": "Go on: {text}"}, "translate": {"from": "fr", "to": "en"}}


def _every_option() -> list[Asked]:
    return [*_ALONE, *_TO_DECODERS, *({"prompt": text} for text in _PROMPT_TEXTS), *_TOGETHER]


def _both(options: Sequence[Asked]) -> Iterator[Asked]:
    for languages in ({"from": "fr", "to": "en"}, {"from": "auto", "to": "en"}):
        yield from (languages | one for one in options)
        yield from (languages | one | other for one, other in combinations(options[:3], 2))
