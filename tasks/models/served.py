"""Models that a server with OpenAI's API computes: `openai:NAME`. They have no files, and no tokenizer here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from docmill.tasks.errors import ModelNotFound

PREFIX = "openai:"
_REVISION = "served"
# A served model counts as a decoder-only model: it follows instructions, or gives vectors.
CONFIG: Mapping[str, Any] = MappingProxyType({"model_type": "served", "architectures": ["ServedForCausalLM"]})


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


def endpoint(url: str) -> str:
    """Return the URL before ``/chat/completions``: ``/v1`` where it has no path. Raises ValueError."""
    parts = urlsplit(url.strip())
    if "@" in parts.netloc:
        raise ValueError("a key does not belong in the URL: set DOCMILL_OPENAI_API_KEY")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("it is no URL such as http://localhost:8000/v1")
    path = parts.path.rstrip("/").removesuffix("/chat/completions").removesuffix("/embeddings")
    return urlunsplit(parts._replace(path=path or "/v1"))


def is_served(model: str) -> bool:
    """Return True if a name is that of a served model."""
    return model.startswith(PREFIX)


def name_of(model: str) -> str:
    """Return the name by which the server knows a model. Raises ModelNotFound for an empty one."""
    name = model.removeprefix(PREFIX)
    if not name.strip():
        raise ModelNotFound(f"{PREFIX} names no model: write {PREFIX}NAME, as the server calls it.")
    return name


def revision(model: str, wanted: str | None = None) -> str:
    """Return the revision of a served model as the user states it, since a server states none.

    Raises ModelNotFound.
    """
    name_of(model)
    return _REVISION if wanted is None else f"{_REVISION}:{wanted}"
