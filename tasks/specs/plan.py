"""Make a spec from a kind of task, a model and options. The result is the same on a machine without torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds, languages, prompts
from docmill.tasks.backends import registry
from docmill.tasks.errors import BadOption
from docmill.tasks.kinds.base import Plan, TaskKind
from docmill.tasks.kinds.options import MIN_WINDOW_TOKENS, KindOptions, flag, option
from docmill.tasks.models import families, weightless
from docmill.tasks.models.families import Family
from docmill.tasks.models.sentence_modules import Prompts

if TYPE_CHECKING:
    from docmill.tasks.specs.pinning import Pinned


# The version of windowing and joining, a part of specs. Raise it when outputs change.
ALGORITHM = 2


def build_spec(
    kind: str, pinned: Pinned, options: KindOptions, config: Mapping[str, Any], stated: Prompts | None = None
) -> Spec:
    """Return the spec of a kind with a pinned model. ``config`` is the model's config.json; {} if not available.

    ``stated`` are an embedding model's own prompts; None if they are unknown. Raises BadOption for an unknown kind or
    a wrong option, and ModelUnsuitable for a model of the wrong family.
    """
    task_kind = kinds.kind(kind)
    task_kind.require(config, pinned.model, options.to_params())
    plan = Plan(options.to_params(), pinned.model, pinned.direction, config, stated)
    _check_options(task_kind, plan)
    _check_search(plan.options)
    if "adapter" in plan.options and "adapter" not in pinned.beside:
        raise BadOption("--adapter is of one model; merge it into its base, and name the merged folder.")
    if "tokenizer" in plan.options and "tokenizer" not in pinned.beside:
        raise BadOption("--tokenizer is for one model on a server: leave it out.")
    params = {**plan.options, **task_kind.params(plan), **_built_in(task_kind, plan), **pinned.beside}
    if weightless.is_served(pinned.model):
        _check_served(plan, options.quality)
    elif config:
        registry.require_possible(kind, plan.family, options.quality, pinned.model)
        _check_room(plan, params.get("max_new_tokens"))
    return Spec(
        kind=kind,
        model=pinned.model,
        revision=pinned.revision,
        quality=options.quality,
        params={**params, "algorithm": ALGORITHM},
    )


def _check_options(kind: TaskKind, plan: Plan) -> None:
    """Raise BadOption for options of another family, and for a malformed template."""
    fields = kind.options.model_fields
    for name in sorted(plan.options):
        declared, value = option(fields[name]), plan.options[name]
        if declared.is_template:
            prompts.check(value)
        if plan.family is not None and not declared.takes(plan.family, value):
            instead = f": {declared.instead}" if declared.instead else ""
            raise BadOption(
                f"{flag(name, fields[name])} is for {declared.only} models; {plan.model} is {plan.family}{instead}."
            )


def _check_served(plan: Plan, quality: str) -> None:
    """Raise BadOption for options that servers do not have."""
    if quality != "native":
        raise BadOption(f"The server chooses the precision of {plan.model}: leave --dtype and DOCMILL_DTYPE out.")
    for name in weightless.NOT_SERVED:
        if name in plan.options:
            raise BadOption(f"A server has no --{name.replace('_', '-')}: leave it out for {plan.model}.")


def _check_search(options: Mapping[str, Any]) -> None:
    """Raise BadOption for options that exclude one another."""
    least, most = options.get("min_new_tokens") or 0, options.get("max_new_tokens")
    if most is not None and least > most:
        raise BadOption(f"--min-new-tokens {least:,} is more than --max-new-tokens {most:,}.")
    for name in ("length_penalty", "early_stopping"):
        if name in options and options.get("beams") == 1:
            raise BadOption(f"--{name.replace('_', '-')} is for a search by beams: give --beams 2 or more with it.")


def _built_in(kind: TaskKind, plan: Plan) -> dict[str, Any]:
    """Return the version of the built-in instructions if the model gets them, or the empty prefix of some T5s.

    A T5 gets the empty prefix if it was trained without a prefix for the task. Older specs have the usual prefix.
    """
    if kind.built_in is None:
        return {}
    if plan.family is Family.DECODER:
        return {} if "prompt" in plan.options else {"instructions": kinds.INSTRUCTIONS}
    unknown = plan.model_type in families.PREFIXED and not families.knows_prefix(plan.config, kind.built_in.settings)
    return {"prefix": ""} if kind.built_in.prefix and unknown and "prefix" not in plan.options else {}


def _check_room(plan: Plan, wanted: int | None) -> None:
    """Raise BadOption if the longest output does not fit in the positions that the model's config names."""
    holds = families.positions(plan.config)
    if wanted is None or holds is None:
        return
    most = holds - MIN_WINDOW_TOKENS if plan.family is Family.DECODER else holds
    if wanted > most:
        beside = ", with the prompt and a text" if plan.family is Family.DECODER else ""
        subject = (
            f"--max-new-tokens {wanted:,}" if "max_new_tokens" in plan.options else f"An output of {wanted:,} tokens"
        )
        raise BadOption(f"{subject} is more than {plan.model} can write: it holds {holds:,} tokens{beside}.")


# Options with a name in the model's own files, or of files beside the model.
OF_MODEL = frozenset({"adapter", "prompt_name", "tokenizer"})
LENGTH, LIMITS = "length", frozenset({"max_new_tokens", "min_new_tokens"})  # the first sets the others


def options_of(spec: Spec, family: Family | None) -> tuple[KindOptions, tuple[str, ...]]:
    """Return the options of a spec that a model of this family takes, and the names of the other options.

    Raises BadOption for an option that this release does not know.
    """
    model = kinds.kind(spec.kind).options
    kept: dict[str, Any] = {"dtype": "auto" if spec.quality == "native" else spec.quality}
    left_out = []
    for name, value in spec.params.items():
        field = model.model_fields.get(name)
        if field is None or (name in LIMITS and LENGTH in spec.params) or (name, value) == ("prefix", ""):
            continue  # a parameter of the spec that is no option
        if name in OF_MODEL or not option(field).takes(family, value):
            left_out.append(name)
        else:
            kept[name] = value
    try:
        return model.model_validate_json(orjson.dumps(kept)), tuple(left_out)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadOption(f"This release cannot read the option {first['loc'][0]} of {spec}.") from error


_PART = re.compile(r"\s*([A-Za-z]+(?:[_-][A-Za-z]+)?)\s*=(.*)", re.DOTALL)
_CODE = re.compile(r"[A-Za-z]{2,3}(?:[_-][A-Za-z]+)?")


def parse_models(model: str) -> dict[str, str] | None:
    """Return the models by language in ``fr=MODEL,de=MODEL``; None for the name of one model. Raises BadOption."""
    first = _PART.fullmatch(model)
    if first is None or not (_CODE.fullmatch(first[1]) or languages.short_code(first[1])):
        return None  # the name of a folder may have =
    models: dict[str, str] = {}
    for part in model.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None or not match[2].strip():
            raise BadOption(f"--model {model}: {part!r} is not LANGUAGE=MODEL, such as fr=opus-mt-fr-en.")
        languages.require_known(match[1], "--model")
        code = languages.plain(match[1])
        if code in models:
            raise BadOption(f"--model {model}: {languages.listed([code])} stands in it twice.")
        models[code] = match[2].strip()
    return models


def write_models(models: Mapping[str, str]) -> str:
    """Return models by language as a text for ``parse_models``."""
    return ",".join(f"{language}={model}" for language, model in models.items())


def build_spec_per_language(
    kind: str, parts: Mapping[str, tuple[Pinned, Mapping[str, Any]]], options: KindOptions
) -> Spec:
    """Return the spec of a translation by these models, each with its config.json or {}.

    Raises the errors of `build_spec`.
    """
    if not _translates(kinds.kind(kind)):
        names = ", ".join(task_kind.name for task_kind in kinds.KINDS if _translates(task_kind))
        raise BadOption(f"--model LANGUAGE=MODEL is for {names}; {kind} takes one model.")
    chosen = options.to_params()
    if chosen.get("source_lang") != languages.AUTO:
        raise BadOption("--model LANGUAGE=MODEL goes with --from auto, which finds each document's language.")
    if "prefix" in chosen:
        raise BadOption("--prefix is the same for every language: give one --model and its --from with it.")
    languages.require_detector()
    target = chosen.get("target_lang") or _only_target(parts)
    alone = []
    for language, (pinned, config) in parts.items():
        if weightless.is_served(pinned.model):
            raise BadOption(
                f"--model {language}={pinned.model}: a server's model is for all languages; name it alone."
            )
        alone_options = options.model_copy(update={"source_lang": language, "target_lang": target})
        try:
            alone.append(build_spec(kind, pinned, alone_options, config))
        except BadOption as error:
            raise BadOption(f"--model {language}={pinned.model}: {error}") from error
    is_instructed = any("instructions" in spec.params for spec in alone)
    ordered = sorted(parts)
    models = {language: [parts[language][0].model, parts[language][0].revision] for language in ordered}
    params = {
        **chosen,
        "target_lang": target,
        "detector": languages.DETECTOR,
        "sources": ordered,
        "models": models,
        **({"instructions": kinds.INSTRUCTIONS} if is_instructed else {}),
        "algorithm": ALGORITHM,
    }
    return Spec(
        kind=kind,
        model=write_models({language: model for language, (model, _) in models.items()}),
        revision=f"sha256:{hashlib.sha256(orjson.dumps(models)).hexdigest()}",
        quality=options.quality,
        params=params,
    )


def specs_of(spec: Spec) -> dict[str, Spec]:
    """Return the specs of a translation's models by language; {} for a spec of one model."""
    common = {name: value for name, value in spec.params.items() if name not in {"detector", "sources", "models"}}
    return {
        language: replace(spec, model=model, revision=revision, params={**common, "source_lang": language})
        for language, (model, revision) in spec.params.get("models", {}).items()
    }


def _translates(kind: TaskKind) -> bool:
    return kind.built_in is not None and kind.built_in.languages


def _only_target(parts: Mapping[str, tuple[Pinned, Mapping[str, Any]]]) -> str:
    stated = [pinned.direction.targets for pinned, _ in parts.values()]
    if any(len(targets) != 1 for targets in stated) or len({languages.plain(*targets) for targets in stated}) != 1:
        raise BadOption("--from auto needs --to, since texts in that language are kept.")
    return stated[0][0]
