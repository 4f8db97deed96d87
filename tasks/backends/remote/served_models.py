"""Models on a server: text by `/chat/completions`, one window in a request, and vectors by `/embeddings`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from math import isfinite
from typing import Any

import numpy as np
import orjson

from docmill.storage.core.specs import Reason, Spec
from docmill.tasks.backends import Assignment, WindowSource
from docmill.tasks.backends.decoding import choose_decoding
from docmill.tasks.backends.registry import version
from docmill.tasks.backends.remote import answers, requests
from docmill.tasks.backends.remote.client import Client, Flight, Question
from docmill.tasks.backends.remote.journal import Journal
from docmill.tasks.backends.static import Items
from docmill.tasks.batching import UNBOUNDED
from docmill.tasks.errors import CannotServe
from docmill.tasks.kinds.base import Traits
from docmill.tasks.models import sentence_modules, weightless
from docmill.tasks.models.weightless import Server
from docmill.tasks.outputs import Failure, Generated, Likelihood, Output, Several, Vector
from docmill.tasks.windows.windows import Encoded

_CHAT, _EMBEDDINGS = "/chat/completions", "/embeddings"
# Facts in `/models` about the model. The others are about accounts.
_KEPT = ("id", "root", "owned_by", "max_model_len")
_SHOWN = 10
# Finish reasons of truncated outputs. Mistral's second reason means that the context is full.
_CUT = frozenset({"length", "model_length"})
_BROKEN_OFF = frozenset({None, "error", "abort", "insufficient_system_resource"})
_OF_TOOLS = frozenset({"tool_calls", "function_call"})
# Texts in a request for vectors: enough to make its overhead small, few enough to keep its latency low.
_TEXTS = 32
_TOLERANCE = 1e-3


class _ServedBackend(ABC):
    """One served model under one spec. Subclasses make requests from windows, and outputs from answers."""

    limit_tokens: int
    traits: Traits
    _windows = 1  # of a request

    def __init__(self, assignment: Assignment) -> None:
        spec = assignment.spec
        self._server = weightless.require_server(assignment.server, spec.model)
        self._name = weightless.served_name(spec.model)
        self._counter = requests.counter(assignment.tokenizer, spec.params.get("tokenizer"))
        self._fingerprint: str | None = None
        self._client = Client(self._server, spec, self._control(), hints=requests.hints(spec))
        try:
            self._model = _ask_for_facts(self._client, self._server, self._name)
            self._open(spec, _context_tokens(self._model) or UNBOUNDED)
        except BaseException:
            self._client.close()
            raise
        self._journal = Journal(self._server.journal, spec)

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        return Flight(self._client, self._journal, self._question, self._windows).run(source)

    def runtime(self) -> dict[str, Any]:
        """Return facts about the server and the model, without the key."""
        facts = {name: str(self._model[name]) for name in _KEPT if isinstance(self._model.get(name), str | int)}
        facts |= {} if self._fingerprint is None else {"system_fingerprint": str(self._fingerprint)}
        facts = {name: answers.masked(value, self._server.api_key) for name, value in facts.items()}
        versions = {"aiohttp": version("aiohttp"), **facts, "server": self._server.endpoint}
        return {"device": "remote", "precision": "the server's", "backend": "remote", "versions": versions}

    def end_soon(self) -> None:
        self._client.end_soon()

    def forget(self, windows: Sequence[Encoded]) -> None:
        self._journal.forget(windows)

    def close(self) -> None:
        self._client.close()
        self._journal.close()

    @abstractmethod
    def _control(self) -> Question:
        """Return a short request to the model, and the function that reads its answer."""

    @abstractmethod
    def _open(self, spec: Spec, context_tokens: int) -> None:
        """Set the limit, the traits and everything else that depends on the model's context. Raises CannotServe."""

    @abstractmethod
    def _question(self, items: Items) -> Question:
        """Return the request for some windows, and the function that reads its answer."""


class ChatBackend(_ServedBackend):
    """One served model that writes, under one spec."""

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return self._coder.encode(texts)

    def _control(self) -> Question:
        messages = [{"role": "user", "content": "Hello"}]
        body = {"model": self._name, "messages": messages, answers.MAX_TOKENS: 1}
        return _CHAT, body, lambda answer: answer["choices"][0]["message"]

    def _open(self, spec: Spec, context_tokens: int) -> None:
        decoding = choose_decoding(spec, {}, context_tokens, tuple(spec.params.get("stop") or ()))
        limit = context_tokens - decoding.max_new_tokens
        self.limit_tokens = min(limit, spec.params.get("window_tokens") or limit)
        self._coder, self.traits = requests.coder_and_traits(spec, self.limit_tokens, self._counter)
        self._body = requests.body(spec, self._name, decoding)
        self._stripped = decoding.stripped

    def _question(self, items: Items) -> Question:
        (item,) = items
        messages = orjson.loads(str(item.encoded.features))
        return _CHAT, self._body | {"messages": messages}, self._read

    def _read(self, answer: Mapping[str, Any]) -> list[Output]:
        """Return the output in an answer. Raises LookupError, TypeError or ValueError for a malformed answer."""
        wanted = self._body.get("n", 1)
        choices = sorted(answer["choices"], key=lambda choice: choice.get("index", 0))
        if len(choices) != wanted:
            if len(choices) == 1:  # another try would have one output, too, and cost money
                return [Failure(f"The server writes 1 output, not {wanted} as --n asks.", Reason.MODEL)]
            raise ValueError("a wrong number of choices")
        usage = answer.get("usage")
        self._fingerprint = answer.get("system_fingerprint") or self._fingerprint
        written = answers.token_count(usage, "completion_tokens") or 0
        read = answers.token_count(usage, "prompt_tokens")
        outputs = []
        for place, choice in enumerate(choices):
            message, reason = choice["message"], choice["finish_reason"]
            if reason in _BROKEN_OFF:
                raise ValueError("the choice has no end")
            if message.get("refusal") or reason == "content_filter":
                return [Failure("The model refuses to write about this text.", Reason.DOCUMENT)]
            text = message.get("content") or ""
            if not isinstance(text, str):
                raise TypeError("the content is no text")
            if not text and (message.get("tool_calls") or reason in _OF_TOOLS):
                return [Failure(f"The model calls a tool and writes no text (finish_reason {reason}).", Reason.MODEL)]
            share = written // wanted + (written % wanted if place == 0 else 0)
            outputs.append(
                Generated(
                    text.strip() if self._stripped else text,
                    share,
                    truncated=reason in _CUT,
                    likelihood=likelihood(choice),
                    read_tokens=read if place == 0 else 0,
                )
            )
        return [outputs[0] if wanted == 1 else Several(tuple(outputs))]


def likelihood(choice: Mapping[str, Any]) -> Likelihood | None:
    """Return the likelihood of a choice's tokens; None if the server leaves out a token's log-probability."""
    try:
        each = [float(token["logprob"]) for token in (choice.get("logprobs") or {}).get("content") or ()]
        return Likelihood.of(each) if all(map(isfinite, each)) else None
    except (ValueError, LookupError, TypeError, AttributeError):  # the text is still good
        return None


class EmbeddingsBackend(_ServedBackend):
    """One served model that computes vectors, under one spec.

    Opening embeds a word to see if vectors have length 1, which no server states.
    """

    _windows = _TEXTS

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        texts_read = [self._prefix + text for text in texts]
        return [Encoded(self._counter.of_text(text), text) for text in texts_read]

    def _control(self) -> Question:
        # Opening asks the same question.
        return _EMBEDDINGS, self._body(["text"]), partial(self._read, [1])

    def _open(self, spec: Spec, context_tokens: int) -> None:
        self._prefix = sentence_modules.prompt(spec, sentence_modules.Prompts())
        self.limit_tokens = min(context_tokens, spec.params.get("window_tokens") or context_tokens)
        (probe,) = self._client.post(self._control())
        length = float(np.linalg.norm(probe.values))
        self.traits = Traits(normalizes=abs(length - 1) < _TOLERANCE)

    def _question(self, items: Items) -> Question:
        texts = [str(item.encoded.features) for item in items]
        return _EMBEDDINGS, self._body(texts), partial(self._read, [item.tokens for item in items])

    def _body(self, texts: Sequence[str]) -> dict[str, Any]:
        return {"model": self._name, "input": list(texts), "encoding_format": "float"}

    def _read(self, tokens: Sequence[int], answer: Mapping[str, Any]) -> list[Vector]:
        """Return the vectors in an answer. Raises ValueError and the like for a malformed answer.

        ``tokens`` are estimates for each text, which share the tokens that the server counts.
        """
        rows = sorted(answer["data"], key=lambda row: row["index"])
        if [row["index"] for row in rows] != list(range(len(tokens))):
            raise ValueError("not a vector for each text")
        vectors = [np.asarray(row["embedding"], dtype=np.float32) for row in rows]
        if any(vector.ndim != 1 or vector.shape != vectors[0].shape or not len(vector) for vector in vectors):
            raise ValueError("vectors of several lengths")
        if not all(np.isfinite(vector).all() for vector in vectors):
            raise ValueError("numbers that are none")
        read = answers.token_count(answer.get("usage"), "prompt_tokens")
        shares = [None] * len(tokens) if not read else _split_total(read, tokens)
        return [Vector(vector, share) for vector, share in zip(vectors, shares, strict=True)]


def _split_total(total: int, tokens: Sequence[int]) -> list[int]:
    """Split a total into whole numbers in proportion to the estimates."""
    ends = np.round(np.cumsum(tokens) / sum(tokens) * total).astype(int)
    return [int(part) for part in np.diff(ends, prepend=0)]


def _ask_for_facts(client: Client, server: Server, name: str) -> Mapping[str, Any]:
    """Return the server's facts about a model; {} if it has no list of models.

    Raises CannotServe for a server that does not answer, refuses the key, or has no such model.
    """
    status, raw = client.get("/models")
    if status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        return {}
    if status != HTTPStatus.OK:
        raise answers.refusal(answers.error_of(status, {}, raw, {}, server), server)
    try:
        listed = [model for model in orjson.loads(raw)["data"] if isinstance(model, dict)]
    except (orjson.JSONDecodeError, LookupError, TypeError) as error:
        raise CannotServe(f"{server.endpoint} has no OpenAI API: correct --endpoint or DOCMILL_ENDPOINT.") from error
    by_name = {str(model.get("id")): model for model in listed}
    model = by_name.get(name) or by_name.get(f"{name}:latest")  # as Ollama names them
    if model is None:
        names = [answers.masked(served, server.api_key) for served in sorted(by_name)]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise CannotServe(
            f"{server.endpoint} serves no model {name}, but {', '.join(names[:_SHOWN]) or 'none'}{more}: name one of "
            f"them as --model {weightless.SERVED_PREFIX}NAME."
        )
    return model


def _context_tokens(model: Mapping[str, Any]) -> int | None:
    """Return the model's context in tokens, as vLLM and llama.cpp state it; None if the server does not.

    Older releases of llama.cpp state only the length of training, which is the longest possible context.
    """
    meta = model.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    tokens = model.get("max_model_len") or meta.get("n_ctx") or meta.get("n_ctx_train")
    return tokens if isinstance(tokens, int) and tokens > 0 else None
