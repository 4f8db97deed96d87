"""One translation by several models, one for each language: ``de=MODEL,fr=MODEL``.

It is one spec, whose ``models`` give the weights by language code. Each text's language is detected, as for a model
that must be told one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds, languages
from docmill.tasks.errors import BadOption
from docmill.tasks.kinds import KindOptions, TaskKind
from docmill.tasks.specs import plan

if TYPE_CHECKING:
    from docmill.tasks.specs.pinning import Pinned

_PART = re.compile(r"\s*([A-Za-z]+(?:[_-][A-Za-z]+)?)\s*=(.*)", re.DOTALL)
_CODE = re.compile(r"[A-Za-z]{2,3}(?:[_-][A-Za-z]+)?")


def parse(model: str) -> dict[str, str] | None:
    """The models by language in ``fr=MODEL,de=MODEL``; None for the name of one model. Raises BadOption."""
    first = _PART.fullmatch(model)
    if first is None or not (_CODE.fullmatch(first[1]) or languages.short_code(first[1])):
        return None  # a folder may have = in its name
    found: dict[str, str] = {}
    for part in model.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None or not match[2].strip():
            raise BadOption(f"--model {model}: {part!r} is not LANGUAGE=MODEL, such as fr=opus-mt-fr-en.")
        code = languages.plain(languages.known(match[1], "--model"))
        if code in found:
            raise BadOption(f"--model {model}: {languages.listed([code])} stands in it twice.")
        found[code] = match[2].strip()
    return found


def written(models: Mapping[str, str]) -> str:
    """Models by language as ``parse`` reads them."""
    return ",".join(f"{language}={model}" for language, model in models.items())


def build_spec(kind: str, parts: Mapping[str, tuple[Pinned, Mapping[str, Any]]], options: KindOptions) -> Spec:
    """The spec of a translation by these models, each with its config.json or {}; raises as `plan.build_spec`."""
    if not _translates(kinds.kind(kind)):
        those = ", ".join(one.name for one in kinds.KINDS if _translates(one))
        raise BadOption(f"--model LANGUAGE=MODEL is for {those}; {kind} takes one model.")
    given = options.given()
    if given.get("source_lang") != languages.AUTO:
        raise BadOption("--model LANGUAGE=MODEL goes with --from auto, which finds each document's language.")
    if "prefix" in given:
        raise BadOption("--prefix is the same for every language: give one --model and its --from with it.")
    if "adapter" in given:
        raise BadOption("--adapter is of one model: merge it into that model, and name the merged folder.")
    languages.require_detector()
    for pinned, config in parts.values():
        kinds.kind(kind).require(config, pinned.model)
    target = given.get("target_lang") or _only_target(parts)
    alone = []
    for language, (pinned, config) in parts.items():
        one = options.replaced(source_lang=language, target_lang=target)
        try:
            alone.append(plan.build_spec(kind, pinned, one, config))
        except BadOption as error:
            raise BadOption(f"--model {language}={pinned.model}: {error}") from error
    built_in = {name: spec.params[name] for spec in alone for name in ("instructions",) if name in spec.params}
    ordered = sorted(parts)
    models = {language: [parts[language][0].model, parts[language][0].revision] for language in ordered}
    params = {
        **given,
        "target_lang": target,
        "detector": languages.DETECTOR,
        "sources": ordered,
        "models": models,
        **built_in,
        "algorithm": plan.ALGORITHM,
    }
    return Spec(
        kind=kind,
        model=written({language: model for language, (model, _) in models.items()}),
        revision=f"sha256:{hashlib.sha256(orjson.dumps(models)).hexdigest()}",
        quality=options.quality,
        params=params,
    )


def specs_of(spec: Spec) -> dict[str, Spec]:
    """By language the spec of the model that reads it; empty for a spec of one model."""
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
        raise BadOption("--from auto needs --to, since a text that is in that language already is kept as it is.")
    return stated[0][0]
