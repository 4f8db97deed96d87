"""Text by a served model: `/chat/completions`, one request for each window."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import isfinite
from typing import Any

import orjson

from docmill.storage.core.outcomes import Reason
from docmill.tasks.backends import Assignment, Source
from docmill.tasks.backends.decoding import decoding
from docmill.tasks.backends.remote import answers, counting, opening, requests
from docmill.tasks.backends.remote.client import Client, Question
from docmill.tasks.backends.remote.flight import Flight, Items
from docmill.tasks.backends.remote.journal import Journal
from docmill.tasks.models import weightless
from docmill.tasks.outputs import Failure, Generated, Likelihood, Output, Several
from docmill.tasks.windows.windows import Encoded

_PATH = "/chat/completions"
_UNBOUNDED = 2**31 - 1
# Ends of outputs that are not whole: Mistral names the second so where the context is full.
_CUT = frozenset({"length", "model_length"})
_BROKEN_OFF = frozenset({None, "error", "abort", "insufficient_system_resource"})
_OF_TOOLS = frozenset({"tool_calls", "function_call"})


class ChatBackend:
    """One served model that writes, under one spec."""

    def __init__(self, assignment: Assignment) -> None:
        spec = assignment.spec
        self._server = opening.require_server(assignment)
        name = weightless.served_name(spec.model)
        self._client = Client(self._server, spec, _control(name), hints=requests.hints(spec))
        try:
            self._model = opening.stated(self._client, self._server, name)
            holds = opening.context_tokens(self._model) or _UNBOUNDED
            how = decoding(spec, {}, holds, requests.stop_of(spec))
            limit = holds - how.max_new_tokens
            self.limit_tokens = min(limit, spec.params.get("window_tokens") or limit)
            counter = counting.counter(assignment.tokenizer, spec.params.get("tokenizer"))
            self._coder = requests.coder(spec, self.limit_tokens, counter)
            self.traits = requests.traits(spec, self.limit_tokens, counter)
            self._body = requests.body(spec, name, how)
        except BaseException:
            self._client.close()
            raise
        self._journal = Journal(self._server.journal, spec)
        self._stripped = how.stripped
        self._fingerprint: str | None = None

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return self._coder.encode(texts)

    def run(self, source: Source) -> Iterator[tuple[int, Output]]:
        return Flight(self._client, self._journal, self._begin).run(source)

    def runtime(self) -> dict[str, Any]:
        return opening.runtime(self._server, self._model, self._fingerprint)

    def end_soon(self) -> None:
        self._client.end_soon()

    def forget(self, windows: Sequence[Encoded]) -> None:
        self._journal.forget(windows)

    def close(self) -> None:
        self._client.close()
        self._journal.close()

    def _begin(self, number: int, items: Items) -> None:
        (item,) = items
        messages = orjson.loads(str(item.encoded.features))
        whole = self._body | {"messages": messages}
        read = self._journal.keeping([item.encoded], self._read)
        self._client.begin(number, _PATH, partial(answers.without, whole), read)

    def _read(self, answer: Mapping[str, Any]) -> list[Output]:
        """Return the output of an answer. Raises LookupError, TypeError or ValueError for half of one."""
        wanted = self._body.get("n", 1)
        choices = sorted(answer["choices"], key=lambda choice: choice.get("index", 0))
        if len(choices) != wanted:
            if len(choices) == 1:  # it would write one again, and be paid again
                return [Failure(f"The server writes 1 output where {wanted} are asked for.", Reason.MODEL)]
            raise ValueError("another number of choices than was asked for")
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
    """Return the log-probabilities of a choice's tokens; None where the server does not give them for all."""
    try:
        each = [float(one["logprob"]) for one in (choice.get("logprobs") or {}).get("content") or ()]
        return Likelihood.of(each) if all(map(isfinite, each)) else None
    except (ValueError, LookupError, TypeError, AttributeError):  # the text is whole, and paid
        return None


def _control(name: str) -> Question:
    """Return a short request to a model, and the reader of its answer."""
    messages = [{"role": "user", "content": "Hello"}]
    body = {"model": name, "messages": messages, answers.MAX_TOKENS: 1}
    return _PATH, partial(answers.without, body), lambda answer: answer["choices"][0]["message"]
