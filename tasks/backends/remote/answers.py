"""A server's error answers by type: about one text, passing, or about all requests."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from typing import Any

import orjson

from tasks.errors import ServerAway, TaskError
from tasks.models.served import Server

KEY_VARIABLE = "DOCMILL_OPENAI_API_KEY"
# Parts of a request that some servers refuse, with what their messages say of them.
LOGPROBS, MAX_TOKENS, MIN_TOKENS = "logprobs", "max_tokens", "min_tokens"
_NEW_NAME = "max_completion_tokens"
_OF_TEXTS = frozenset({400, 413, 422})
_OF_ALL = frozenset({401, 402, 403, 404, 405, 410})
_OVERLOADED = frozenset({429, 503, 529})
_NO_MONEY = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_MOST_CHARS = 300
_QUOTED_CHARS = 12


class Passing(TaskError):
    """A failure that may pass: an error of the server, no answer, or half an answer.

    ``wait_s`` is the pause that the server asks for. ``throttles`` is True if the server is overloaded,
    ``fails`` if it answered with an error of its own, ``slow`` if it took the request and did not answer in time.
    ``tries`` is the number of requests about the same text. ``silence_s`` is set if the server answered nothing for
    longer than the patience.
    """

    tries = 1
    silence_s: float | None = None

    def __init__(
        self,
        message: str,
        wait_s: float | None = None,
        *,
        throttles: bool = False,
        fails: bool = False,
        slow: bool = False,
    ) -> None:
        super().__init__(message)
        self.fails = fails
        self.slow = slow
        self.wait_s = wait_s
        self.throttles = throttles


class Refused(TaskError):
    """The server refuses the content of a request, and would do so again. ``said`` is its message."""

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.said = said


def error_of(
    status: int, headers: Mapping[str, str], raw: bytes, body: Mapping[str, Any], server: Server
) -> Passing | Refused | ServerAway:
    """Return the error of an answer with this status. Its sentence has neither the key nor words of a text."""
    message, code = _message(raw)
    secret = _quotes(message, _texts(body)) or (server.api_key is not None and server.api_key in message)
    shown = f"HTTP {status}" if secret or not message else f"HTTP {status} ({message})"
    if status in _OF_TEXTS:
        return Refused(shown, message)
    if status == 401 or (status == 403 and server.api_key is None):
        told = "wants an API key" if server.api_key is None else "refuses the API key"
        return ServerAway(f"{server.endpoint} {told} (HTTP {status}): set {KEY_VARIABLE}.")
    if code in _NO_MONEY or status in _OF_ALL or status < 400:
        return ServerAway(f"{server.endpoint} refuses requests: {shown}. Correct --endpoint, or check the server.")
    return Passing(shown, _wait_s(headers), throttles=status in _OVERLOADED, fails=status == 500)


def lacking(refused: Refused, body: Mapping[str, Any], hints: frozenset[str] = frozenset()) -> frozenset[str]:
    """Return the parts of a request that the server refuses and that the request can do without.

    They are log-probabilities, the old name of a limit, and ``hints``.
    """
    if MAX_TOKENS in body and _NEW_NAME in refused.said:
        return frozenset({MAX_TOKENS})
    return frozenset(part for part in {LOGPROBS, *hints} if part in body and part in refused.said)


def without(body: Mapping[str, Any], lacks: frozenset[str]) -> dict[str, Any]:
    """Return a request without the parts that the server refuses."""
    found = dict(body)
    if MAX_TOKENS in lacks and MAX_TOKENS in found:
        found[_NEW_NAME] = found[MAX_TOKENS]
    for part in lacks:
        found.pop(part, None)
    return found


def named(error: BaseException) -> str:
    """Return an error of the connection in words for a message."""
    return "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__


def _message(raw: bytes) -> tuple[str, str | None]:
    """Return the message and the code of an error, in any of the forms that servers give them."""
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return "", None
    if isinstance(found, dict):
        found = found.get("error", found)
    if not isinstance(found, dict):
        return _line(found), None
    code = found.get("code") or found.get("type")
    return _line(found.get("message") or found.get("detail") or code), None if code is None else str(code)


def _line(value: object) -> str:
    text = " ".join(str(value or "").split())
    return (text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}…").rstrip(".")


def _texts(body: Mapping[str, Any]) -> str:
    """Return what a request asks about, which may be a document's text."""
    return "\n".join([*(str(one["content"]) for one in body.get("messages") or ()), *(body.get("input") or ())])


def _quotes(message: str, given: str) -> bool:
    """Return True if a message quotes a part of the given text."""
    if len(message) < _QUOTED_CHARS:
        return False
    starts = range(len(message) - _QUOTED_CHARS + 1)
    return any(message[start : start + _QUOTED_CHARS] in given for start in starts)


def _wait_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110, section 10.2.3); None without one."""
    given = headers.get("retry-after-ms")
    if given is not None and given.strip().isdigit():
        return int(given) / 1000
    given = (headers.get("Retry-After") or "").strip()
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(given).timestamp() - time.time())
    except ValueError:
        return None
