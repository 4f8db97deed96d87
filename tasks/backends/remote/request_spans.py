"""Spans of requests to a server of models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from docmill.tasks import tracing
from docmill.tasks.backends.remote import answers
from docmill.tasks.tracing import Attributes, Span, Value

_OPERATIONS = {"/chat/completions": "chat", "/completions": "text_completion", "/embeddings": "embeddings"}


@contextmanager
def request_span(path: str, body: Mapping[str, Any], endpoint: str) -> Iterator[Span]:
    """Record a request, as a child of the batch on the device where there is one."""
    if not tracing.is_on():
        yield tracing.OFF
        return
    operation, model = _OPERATIONS.get(path, path.strip("/")), str(body.get("model"))
    parts = urlsplit(endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    server: dict[str, Value] = {"gen_ai.provider.name": "openai", "server.address": parts.hostname or ""}
    about = tracing.model_use(operation, model) | server | {"server.port": port}
    span = tracing.begin(f"{operation} {model}", about, kind="client", parent=tracing.batch())
    try:
        yield span
    except BaseException as error:
        span.fail(type(error).__name__)
        raise
    finally:
        span.end()


def usage_of(answer: Mapping[str, Any]) -> Attributes:
    """Return the tokens that a server says it read and wrote."""
    usage = answer.get("usage")
    names = {"prompt_tokens": "gen_ai.usage.input_tokens", "completion_tokens": "gen_ai.usage.output_tokens"}
    counts = {name: answers.token_count(usage, stated) for stated, name in names.items()}
    return {name: count for name, count in counts.items() if count is not None}
