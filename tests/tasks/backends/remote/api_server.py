"""A server with OpenAI's API that answers and fails by a script, and counts requests."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.tasks.http_server import http_server

MODEL = "small"


@dataclass
class ServerAnswer:
    """An answer to a request. With ``cut``, the connection breaks in the middle of the body."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


Script = Callable[[dict[str, Any], int], ServerAnswer | None]


def error(status: int, message: str = "", code: str | None = None, **headers: str) -> ServerAnswer:
    """Return an error in the form of OpenAI's API. ``headers`` have underscores for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ServerAnswer(status, {"error": {"message": message, "type": "error", "code": code}}, named)


def text_of(request: dict[str, Any]) -> str:
    """Return the last message of a chat request."""
    return str(request["messages"][-1]["content"])


def completion(text: str, reason: str = "stop", *, read_tokens: int = 7, **choice: Any) -> ServerAnswer:
    """Return a chat completion with a single choice."""
    message = {"role": "assistant", "content": text}
    tokens = [{"token": word, "logprob": -0.5} for word in text.split()]
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": {"content": tokens}, **choice}
    usage = {
        "prompt_tokens": read_tokens,
        "completion_tokens": len(tokens),
        "total_tokens": read_tokens + len(tokens),
    }
    return ServerAnswer(body={"id": "chat-1", "choices": [choice], "usage": usage, "system_fingerprint": "fp_1"})


def vectors(request: dict[str, Any]) -> ServerAnswer:
    """Return a vector of length 1 for each text, which depends on the length of the text."""
    data = [
        {
            "object": "embedding",
            "index": place,
            "embedding": [1 / (1 + len(text)), (1 - (1 + len(text)) ** -2) ** 0.5],
        }
        for place, text in enumerate(request["input"])
    ]
    return ServerAnswer(
        body={"data": data[::-1], "usage": {"prompt_tokens": sum(len(text) for text in request["input"])}}
    )


def usual(request: dict[str, Any]) -> ServerAnswer:
    """Return the text in capitals, or vectors."""
    return vectors(request) if "input" in request else completion(text_of(request).upper())


class ApiServer:
    """The server. ``script`` gets each request and how often it came. It returns an answer, or None for the usual.

    With ``honours``, a request with an earlier `Idempotency-Key` is not computed again. It gets the first answer,
    errors included, and 409 until there is one. ``requests`` has the computed requests only.
    """

    def __init__(self, script: Script = lambda request, times: None, *, honours: bool = False) -> None:
        self.script = script
        self.honours = honours
        self.repeated: list[str] = []  # keys of requests that were not computed again
        self.idempotency_keys: list[str | None] = []
        self._by_key: dict[str, ServerAnswer | None] = {}
        self.models: list[dict[str, Any]] | int = [{"id": MODEL, "object": "model", "max_model_len": 4096}]
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.at_a_time = 0
        self._times: dict[str, int] = {}
        self._lock = threading.Lock()

    def of(self, text: str) -> int:
        """Return how many requests asked about this text."""
        return sum(text in json.dumps(request) for request in self.requests)

    @contextmanager
    def running(self) -> Iterator[ApiServer]:
        with http_server(self._handler()) as url:
            self.endpoint = f"{url}/v1"
            yield self

    def _answer(self, request: dict[str, Any]) -> ServerAnswer:
        key = json.dumps(request, sort_keys=True)
        with self._lock:
            self.requests.append(request)
            times = self._times[key] = self._times.get(key, 0) + 1
            self.at_a_time += 1
        try:
            return self.script(request, times) or usual(request)
        finally:
            with self._lock:
                self.at_a_time -= 1

    def _answer_once(self, request: dict[str, Any], key: str) -> ServerAnswer:
        with self._lock:
            if key in self._by_key:
                self.repeated.append(key)
                return self._by_key[key] or error(409, "the first request is in progress")
            self._by_key[key] = None
        answer = self._by_key[key] = self._answer(request)
        if answer.status == 429:
            del self._by_key[key]
        return answer

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.keys.add(self.headers.get("Authorization"))
                if isinstance(outer.models, int):
                    self._send(error(outer.models, "no"))
                else:
                    self._send(ServerAnswer(body={"object": "list", "data": outer.models}))

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                key = self.headers.get("Idempotency-Key")
                outer.idempotency_keys.append(key)
                once = outer.honours and key is not None
                self._send(outer._answer_once(request, str(key)) if once else outer._answer(request))

            def _send(self, answer: ServerAnswer) -> None:
                raw = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for name, value in {"Content-Length": str(len(raw)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw[: len(raw) // 2] if answer.cut else raw)
                if answer.cut:
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True

            def log_message(self, *args: Any) -> None:
                pass

        return Handler
