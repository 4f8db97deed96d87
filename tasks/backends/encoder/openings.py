"""Openings in the cache: where they lie, and what reads a text as a kept model does. It loads no model library."""

from __future__ import annotations

import hashlib
import pkgutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from docmill.tasks.backends import Assignment
from docmill.tasks.backends.encoder import fast_tokenizer
from docmill.tasks.backends.tokens import Tokens, pairs
from docmill.tasks.kinds.base import Traits

FACTS, TOKENIZER, TENSORS = "facts.json", "tokenizer.json", "tensors.safetensors"
# Raise this number with every change of what is kept, or of how it is read.
_FORMAT = 3
_LIBRARIES = ("docmill", "torch", "transformers", "sentence-transformers", "tokenizers", "openvino")


def folder(assignment: Assignment, implementation: str, device_name: str, threads: int) -> Path:
    """Return the folder of the cache for a spec on a backend's class, under the libraries that are installed."""
    subject = (
        f"{_FORMAT} {assignment.spec.sha256.hex()} {assignment.head} {implementation} {device_name} {threads} "
        f"{assignment.folder} {' '.join(map(_version, _LIBRARIES))}"
    )
    return assignment.cache_dir / "opened" / hashlib.sha256(subject.encode()).hexdigest()[:32]


def tokens_of(facts: Mapping[str, Any], tokenizer: str) -> Tokens:
    """Return the tokens of kept facts and a kept ``tokenizer.json``."""
    kind: type[Tokens] = pkgutil.resolve_name(facts["tokens"])
    tokens = kind(fast_tokenizer.again(tokenizer, facts["tokenizer"]))
    return tokens.framed(facts["prefix"]) if facts["prefix"] else tokens


def traits_of(facts: Mapping[str, Any], tokens: Tokens) -> Traits:
    """Return the traits of a kept model."""
    first = facts["head"].get("question_first", False)
    beside = pairs(tokens, facts["limit_tokens"], first=first) if facts["pairs"] else None
    return Traits(normalizes=facts["normalizes"], pairs=beside)


def _version(library: str) -> str:
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return library
