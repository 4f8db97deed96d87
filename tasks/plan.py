"""From what was asked to a spec: pure, and the same on a machine that has no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from storage.flow import templates
from storage.specs import Spec
from tasks import choice, detection, directions, families, instructions, languages, prompts, suitability
from tasks.errors import BadOption
from tasks.families import Family
from tasks.named_prompts import Prompts

if TYPE_CHECKING:
    from tasks.models import Pinned

# Version of our windowing and joining: a change that changes outputs makes new specs.
ALGORITHM = 2

QUALITIES: Mapping[str, str] = {
    "auto": "native",
    "native": "native",
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
    "int8": "int8",
}
POOLINGS = ("cls", "mean", "last")
WINDOWS = ("mean", "all")
_MIN_WINDOW_TOKENS = 8
_LEAST = {
    "beams": 1,
    "max_new_tokens": 1,
    "window_tokens": _MIN_WINDOW_TOKENS,
    "temperature": 0,
    "top_k": 0,
    "seed": 0,
}
_NAMES = {"source_lang": "--from", "target_lang": "--to", "window_tokens": "--window-tokens"}
# Options of decoder-only models; an encoder-decoder whose own settings ask for samples takes the seed too.
_TO_DECODERS = frozenset({"prompt", "system", "temperature", "top_p", "top_k", "seed", "stop"})
_WRITING = frozenset({"beams", "max_new_tokens", "window_tokens", "prefix"}) | _TO_DECODERS
_ALLOWED: Mapping[str, frozenset[str]] = {
    "summarize": _WRITING,
    "translate": _WRITING | {"source_lang", "target_lang"},
    "embed": frozenset({"pooling", "window_tokens", "windows", "prompt", "prompt_name"}),
    "generate": frozenset({"max_new_tokens", "window_tokens"}) | _TO_DECODERS,
}


@dataclass(frozen=True)
class Options:
    """What may be asked of a model; None is the model's own choice.

    ``windows``: what to keep of a text longer than the model's window, for embed: ``mean`` of the windows'
    vectors, or ``all`` of them. ``prompt`` is a template over the document (``tasks.prompts``), ``prompt_name`` the
    name of one that an embedding model brings; ``prefix`` stands before every window of an encoder-decoder; ``stop``
    are texts that end the output.
    """

    source_lang: str | None = None
    target_lang: str | None = None
    beams: int | None = None
    max_new_tokens: int | None = None
    pooling: str | None = None
    dtype: str = "auto"
    window_tokens: int | None = None
    windows: str | None = None
    prompt: str | None = None
    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    prompt_name: str | None = None
    prefix: str | None = None

    def asked(self) -> dict[str, Any]:
        """The options that were given, but for the precision."""
        given = {name: value for name, value in vars(self).items() if value is not None and name != "dtype"}
        for name in ("temperature", "top_p"):
            if name in given:
                given[name] = float(given[name])  # 1 and 1.0 are one spec
        if "stop" in given:
            given["stop"] = list(given["stop"])  # as it comes back from JSON
        return given


def build_spec(
    kind: str, pinned: Pinned, options: Options, config: Mapping[str, Any], stated: Prompts | None = None
) -> Spec:
    """The spec of ``kind`` by the pinned model; ``config`` is its config.json, or {} where it is not at hand.

    ``stated`` are an embedding model's own prompts, None where they are not known.

    Raises BadOption for an option that does not fit, ModelUnsuitable for a model of the wrong family.
    """
    suitability.require(kind, config, pinned.model)
    asked = options.asked()
    for name in asked:
        if name not in _ALLOWED[kind]:
            raise BadOption(f"{_option(name)} has no meaning for {kind}.")
    _check_values(asked)
    family = families.family(config)
    _check_prompt(kind, asked, family, pinned)
    if kind == "translate":
        asked |= _check_languages(asked, config, pinned)
    if kind == "embed":
        asked |= _prompt_of_documents(asked, stated, pinned)
    else:
        asked |= _prefix(kind, asked, config, pinned)
    if options.dtype not in QUALITIES:
        raise BadOption(f"--dtype {options.dtype}: choose one of {', '.join(QUALITIES)}.")
    if config:
        choice.require_possible(kind, family, QUALITIES[options.dtype], pinned.model)
        _check_room(asked, family, config, pinned)
    return Spec(
        kind=kind,
        model=pinned.model,
        revision=pinned.revision,
        quality=QUALITIES[options.dtype],
        params={**asked, **_instructions(kind, asked, family), **_white_space(kind), "algorithm": ALGORITHM},
    )


def _white_space(kind: str) -> dict[str, str]:
    """Return the parameter with which `generate` keeps white space in prompts and outputs."""
    return {templates.WHITE_SPACE: templates.KEPT} if kind == "generate" else {}


def _instructions(kind: str, asked: Mapping[str, Any], family: Family | None) -> dict[str, int]:
    """Which built-in instructions the model gets, if it gets any."""
    built_in = family is Family.DECODER and kind in {"summarize", "translate"} and "prompt" not in asked
    return {"instructions": instructions.INSTRUCTIONS} if built_in else {}


def _check_prompt(kind: str, asked: Mapping[str, Any], family: Family | None, pinned: Pinned) -> None:
    if kind == "generate" and "prompt" not in asked:
        raise BadOption("generate needs --prompt, a template with {text} where the document goes.")
    if kind == "embed":
        return
    if "prompt" in asked:
        fields = prompts.check(asked["prompt"]).fields
        if fields and asked.get("source_lang") == languages.AUTO:
            raise BadOption("--from auto reads a document as it is, and not what --prompt makes of its metadata.")
    if family is Family.SEQ2SEQ and (told := sorted(_TO_DECODERS & asked.keys() - {"seed"})):
        raise BadOption(f"{_option(told[0])} is for decoder-only models; {pinned.model} is {family}.")
    if family is Family.DECODER and asked.get("beams", 1) > 1:
        raise BadOption(f"--beams is for encoder-decoder models; {pinned.model} is {family}.")


def _prompt_of_documents(asked: Mapping[str, Any], stated: Prompts | None, pinned: Pinned) -> dict[str, str]:
    """The name of the prompt that documents get where nothing was asked for; specs from before it have none."""
    if "prompt" in asked:
        if "prompt_name" in asked:
            raise BadOption("--prompt-name and --prompt do not go together: give one of them.")
        if prompts.check(asked["prompt"]).fields:
            raise BadOption("--prompt: {meta.FIELD} has no meaning for embed, only {text}.")
        if prompts.around(asked["prompt"]).after:
            raise BadOption("--prompt: for embed {text} stands at the end, as in 'passage: {text}'.")
    if "prompt_name" in asked and stated is not None and asked["prompt_name"] not in stated.named:
        raise BadOption(
            f"--prompt-name {asked['prompt_name']}: the prompts in the files of {pinned.model} are: {stated.listed}. "
            "To give the words themselves use --prompt, such as 'passage: {text}'."
        )
    name = stated.of_documents if stated is not None and not asked.keys() & {"prompt", "prompt_name"} else None
    return {} if name is None else {"prompt_name": name}


def _prefix(kind: str, asked: Mapping[str, Any], config: Mapping[str, Any], pinned: Pinned) -> dict[str, str]:
    """An empty prefix for a summary by a T5 whose files and family know none; specs from before had `summarize: `."""
    model_type = config.get("model_type")
    if "prefix" in asked:
        if families.family(config) is Family.DECODER:
            raise BadOption(f"--prefix is for encoder-decoder models; {pinned.model} is decoder-only: use --prompt.")
        if kind == "translate" and config and model_type not in families.PREFIXED:
            raise BadOption(f"--prefix is for a T5 or summaries; {pinned.model} takes --from and --to only.")
        if asked.get("source_lang") == languages.AUTO:
            raise BadOption("--prefix is the same for every language: give --from with it.")
        return {}
    unknown = (
        kind == "summarize" and model_type in families.PREFIXED and not families.knows_prefix(config, "summarization")
    )
    return {"prefix": ""} if unknown else {}


def _check_room(asked: Mapping[str, Any], family: Family | None, config: Mapping[str, Any], pinned: Pinned) -> None:
    """Raise BadOption if the longest output does not fit in the positions that the model's config names."""
    wanted, holds = asked.get("max_new_tokens"), families.positions(config)
    if wanted is None or holds is None:
        return
    most = holds - _MIN_WINDOW_TOKENS if family is Family.DECODER else holds
    if wanted > most:
        beside = ", its prompt and a text among them" if family is Family.DECODER else ""
        raise BadOption(
            f"--max-new-tokens {wanted:,} is more than {pinned.model} can write: it holds {holds:,} tokens{beside}."
        )


def _option(name: str) -> str:
    return _NAMES.get(name, "--" + name.replace("_", "-"))


def _check_values(asked: Mapping[str, Any]) -> None:
    for name, least in _LEAST.items():
        if name in asked and not asked[name] >= least:
            raise BadOption(f"{_option(name)} must be at least {least}.")
    if not 0 < asked.get("top_p", 1.0) <= 1:
        raise BadOption("--top-p must be above 0 and at most 1.")
    if not math.isfinite(asked.get("temperature", 0.0)):
        raise BadOption("--temperature must be a number.")
    if not all(asked.get("stop", [True])):
        raise BadOption("--stop must not be empty.")
    for name, choices in (("pooling", POOLINGS), ("windows", WINDOWS)):
        if name in asked and asked[name] not in choices:
            raise BadOption(f"{_option(name)} {asked[name]}: choose one of {', '.join(choices)}.")


def _check_languages(asked: Mapping[str, Any], config: Mapping[str, Any], pinned: Pinned) -> dict[str, Any]:
    """Hold the languages against the model; what a spec says besides where they are to be found."""
    auto = asked.get("source_lang") == languages.AUTO
    for name in ("target_lang",) if auto else ("source_lang", "target_lang"):
        if name in asked:
            languages.known(asked[name], _option(name))
    model_type = config.get("model_type")
    tells = model_type in families.MULTILINGUAL | (families.PREFIXED if "prefix" not in asked else set()) or (
        families.family(config) is Family.DECODER and "prompt" not in asked
    )
    if tells and not {"source_lang", "target_lang"} <= asked.keys():
        raise BadOption(f"{pinned.model} translates between several languages: give --from and --to.")
    source = None if auto else asked.get("source_lang")
    directions.require(pinned.direction, source, asked.get("target_lang"), pinned.model)
    return _to_detect(asked, pinned) if auto else {}


def _to_detect(asked: Mapping[str, Any], pinned: Pinned) -> dict[str, Any]:
    """What the spec must say where languages are to be found: by what, and what the model is known to read."""
    detection.require()
    target, direction = asked.get("target_lang"), pinned.direction
    if target is None and len(direction.targets) != 1:
        raise BadOption("--from auto needs --to, since a text that is in that language already is kept as it is.")
    limited = {"sources": sorted(direction.sources)} if direction.sources else {}
    return {"target_lang": target or direction.targets[0], "detector": detection.DETECTOR, **limited}
