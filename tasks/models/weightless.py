"""Models without files: `null`, `patterns`, `none`, and the models of a server with OpenAI's API, `openai:NAME`.

`null` computes nothing: it serves to measure everything around a model, and to test faults. `patterns` finds personal
data by its form, for kinds of task that need no trained model. `none` is the model of kinds that need no model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from docmill.tasks.errors import CannotServe, ModelCorrupt, ModelNotFound

NULL, PATTERNS = "null", "patterns"
# The model in specs of kinds that need no model.
NO_MODEL = "none"
# The revisions. Raise the number when a model's outputs change.
NULL_REVISION = "null:1"
_REVISIONS = {NULL: NULL_REVISION, PATTERNS: "patterns:1", NO_MODEL: "none:1"}


def is_weightless(model: str) -> bool:
    """Return True for the name of a model without files, even if the pace of a null model is malformed."""
    return model in _REVISIONS or is_null(model) or is_served(model)


def config(model: str) -> dict[str, Any]:
    """Return the config of a model without files."""
    return dict(SERVED_CONFIG) if is_served(model) else {}


def revision(model: str, wanted: str | None = None) -> str:
    """Return the revision of a model without files. Raises ModelCorrupt if it is not ``wanted``, ModelNotFound."""
    if is_served(model):
        served_name(model)
        # The user may give a revision, since a server has none.
        return _REVISION if wanted is None else f"{_REVISION}:{wanted}"
    if is_null(model):
        null_pace(model)  # raises for a malformed pace
    current = _REVISIONS[NULL if is_null(model) else model]
    if wanted not in (None, current):
        raise ModelCorrupt(f"{model} is {current}, not {wanted}.")
    return current


_PACED = re.compile(rf"{NULL}@([1-9][0-9]{{0,11}})")


def is_null(model: str) -> bool:
    """Return True for the name of the null model, even if its pace is malformed."""
    return model == NULL or model.startswith(f"{NULL}@")


def null_pace(model: str) -> int | None:
    """Return the pace in the name; None for no limit. Raises ModelNotFound."""
    if model == NULL:
        return None
    match = _PACED.fullmatch(model)
    if match is None:
        raise ModelNotFound(
            f"There is no model {model}: null@N pretends to compute N tokens a second, such as null@2000; null alone "
            "has no such limit."
        )
    return int(match.group(1))


SERVED_PREFIX = "openai:"
NOT_SERVED = ("no_repeat_ngram_size", "pooling", "raw")  # options that servers do not have
_REVISION = "served"
# A served model counts as a decoder-only model: it follows instructions, or gives vectors.
SERVED_CONFIG: Mapping[str, Any] = MappingProxyType({"model_type": "served", "architectures": ["ServedForCausalLM"]})


@dataclass(frozen=True)
class Server:
    """A server with OpenAI's API, with its key and its limits.

    ``endpoint`` is the URL before ``/chat/completions``. An answer may take ``answer_s``. Without an answer for
    ``patience_s``, the server counts as away. ``requests`` bounds the requests at a time. A failed request is sent
    again after ``first_wait_s`` at most, and then after twice as long each time. With a ``journal``, each answer is
    kept in that file until its outcome is stored, and requests have an ``Idempotency-Key``.
    """

    endpoint: str
    api_key: str | None = field(default=None, repr=False)
    answer_s: float = 600.0
    patience_s: float = 300.0
    requests: int = 256
    first_wait_s: float = 1.0
    journal: Path | None = None


def require_server(server: Server | None, model: str) -> Server:
    """Return the server. Raises CannotServe if it is None."""
    if server is None:
        raise CannotServe(
            f"No server is known for {model}: give --endpoint URL, or set DOCMILL_ENDPOINT, such as "
            "http://localhost:8000/v1."
        )
    return server


def endpoint(url: str) -> str:
    """Return the URL before ``/chat/completions``, with ``/v1`` if it has no path. Raises ValueError."""
    parts = urlsplit(url.strip())
    if "@" in parts.netloc:
        raise ValueError("a key does not belong in the URL: set DOCMILL_OPENAI_API_KEY")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("it is no URL such as http://localhost:8000/v1")
    path = parts.path.rstrip("/").removesuffix("/chat/completions").removesuffix("/embeddings")
    return urlunsplit(parts._replace(path=path or "/v1"))


def is_served(model: str) -> bool:
    """Return True for the name of a served model."""
    return model.startswith(SERVED_PREFIX)


def served_name(model: str) -> str:
    """Return the name by which the server knows a model. Raises ModelNotFound for an empty one."""
    name = model.removeprefix(SERVED_PREFIX)
    if not name.strip():
        raise ModelNotFound(f"{SERVED_PREFIX} names no model: write {SERVED_PREFIX}NAME, as the server calls it.")
    return name
