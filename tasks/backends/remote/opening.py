"""Open a served model: ask the server for its models, and for the facts about this one."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import orjson

from docmill.tasks.backends import Assignment
from docmill.tasks.backends.remote import answers
from docmill.tasks.backends.remote.client import Client
from docmill.tasks.errors import CannotServe
from docmill.tasks.models import weightless
from docmill.tasks.models.weightless import Server

# Facts of `/models` that say what computes: the rest is about accounts.
_KEPT = ("id", "root", "owned_by", "max_model_len")
_OK, _SHOWN = 200, 10


def require_server(assignment: Assignment) -> Server:
    """Return the server of an assignment. Raises CannotServe where none is known."""
    if assignment.server is None:
        raise CannotServe(
            f"No server is known for {assignment.spec.model}: give --endpoint URL, or set DOCMILL_ENDPOINT, such as "
            "http://localhost:8000/v1."
        )
    return assignment.server


def stated(client: Client, server: Server, name: str) -> Mapping[str, Any]:
    """Return the server's facts about a model; {} if it has no list of models.

    Raises CannotServe for a server that does not answer, wants another key, or has no such model.
    """
    status, raw = client.get("/models")
    if status in {404, 405}:
        return {}
    if status != _OK:
        raise CannotServe(str(answers.away(answers.error_of(status, {}, raw, {}, server), server)))
    try:
        listed = [model for model in orjson.loads(raw)["data"] if isinstance(model, dict)]
    except (orjson.JSONDecodeError, LookupError, TypeError) as error:
        raise CannotServe(f"{server.endpoint} has no OpenAI API: correct --endpoint or DOCMILL_ENDPOINT.") from error
    by_name = {str(model.get("id")): model for model in listed}
    found = by_name.get(name) or by_name.get(f"{name}:latest")  # as Ollama names them
    if found is None:
        names = [answers.masked(one, server.api_key) for one in sorted(by_name)]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise CannotServe(
            f"{server.endpoint} serves no model {name}, but {', '.join(names[:_SHOWN]) or 'none'}{more}: name one of "
            f"them as --model {weightless.SERVED_PREFIX}NAME."
        )
    return found


def context_tokens(model: Mapping[str, Any]) -> int | None:
    """Return the tokens that a model holds, as vLLM and llama.cpp state them; None where the server does not say."""
    meta = model.get("meta")
    found = model.get("max_model_len") or (meta.get("n_ctx_train") if isinstance(meta, dict) else None)
    return found if isinstance(found, int) and found > 0 else None


def runtime(server: Server, model: Mapping[str, Any], fingerprint: str | None) -> dict[str, Any]:
    """Return the facts about the server and the model that compute a spec. The URL has no key in it."""
    facts = {name: str(model[name]) for name in _KEPT if isinstance(model.get(name), str | int)}
    facts |= {} if fingerprint is None else {"system_fingerprint": str(fingerprint)}
    facts = {name: answers.masked(value, server.api_key) for name, value in facts.items()}
    versions = {"aiohttp": version("aiohttp"), **facts, "server": server.endpoint}
    return {"device": "remote", "precision": "the server's", "backend": "remote", "versions": versions}
