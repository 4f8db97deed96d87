"""The only module here that calls inner functions of docmill: a change that moves them adapts this file alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.kinds import KindOptions
from docmill.tasks.models.families import Direction
from docmill.tasks.models.sentence_modules import Prompts
from docmill.tasks.specs import plan
from docmill.tasks.specs.pinning import Pinned
from docmill.tasks.specs.plan import build_spec
from docmill.worker.orders import parse_enqueue

Models = Mapping[str, Mapping[str, Any]]


def planned(kind: str, model: str, options: Mapping[str, Any], models: Models) -> Spec:
    """Return the spec of a task. The names of options are those of a pipeline file's keys.

    `models` has each model's revision, config, prompts and direction. Raises TaskError for options that do not fit.
    """
    return _built(kind, model, _options(kind, options), models)


def ordered(arguments: Mapping[str, Any], models: Models) -> Spec:
    """Return the spec of the arguments of a `docmill.enqueue` message."""
    request = parse_enqueue(dict(arguments))
    assert request.model is not None
    return _built(request.task, request.model, request.options, models)


def canonical(spec: Spec) -> str:
    """Return the canonical JSON, whose SHA-256 is the spec's id."""
    return spec.to_json().decode()


def identity(spec: Spec) -> str:
    """Return the spec's id in hexadecimal digits, as the store has it."""
    return spec.sha256.hex()


def _options(kind: str, given: Mapping[str, Any]) -> KindOptions:
    named = {{"from": "source_lang", "to": "target_lang"}.get(name, name): value for name, value in given.items()}
    fields = {name.replace("-", "_"): value for name, value in named.items()}
    return kinds.options(kind, **fields)


def _built(kind: str, model: str, options: KindOptions, models: Models) -> Spec:
    by_language = plan.parse_models(model)
    if by_language is None:
        pinned, config, prompts = _model(model, models)
        return build_spec(kind, pinned, options, config, prompts if kind == "embed" else None)
    parts = {language: _model(name, models)[:2] for language, name in by_language.items()}
    return plan.build_spec_per_language(kind, parts, options)


def _model(name: str, models: Models) -> tuple[Pinned, Mapping[str, Any], Prompts | None]:
    found = models[name]
    direction = Direction(**{side: tuple(codes) for side, codes in found.get("direction", {}).items()})
    prompts = Prompts.of(found["prompts"]) if "prompts" in found else None
    return Pinned(name, found["revision"], direction), found["config"], prompts
