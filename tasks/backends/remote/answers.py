"""A server's answers: their parts, and their errors by type: about one text, temporary, or about all requests."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Mapping
from typing import Any

import orjson

from docmill.tasks.errors import CannotServe, ServerAway, ServerUnreachable, TaskError
from docmill.tasks.models.weightless import Server

KEY_VARIABLE = "DOCMILL_OPENAI_API_KEY"
# Parts of a request that some servers refuse. Their messages name the part.
LOGPROBS, MAX_TOKENS, MIN_TOKENS = "logprobs", "max_tokens", "min_tokens"
_NEW_NAME = "max_completion_tokens"
_OF_TEXTS = frozenset({400, 413, 422})
# Temporary errors below 500: a time limit, a request in progress, a request that came too early, and too many.
_PASS = frozenset({408, 409, 425, 429})
# Permanent server errors: not implemented, and an unsupported version of HTTP.
_NEVER = frozenset({501, 505})
_OVERLOADED = frozenset({429, 503, 529})
_NO_MONEY = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_SERVER_ERROR = 500
_MOST_CHARS, _READ_CHARS = 300, 4_000  # of a message: to show, and to search for a key
_QUOTED_CHARS = 12
_KEY_CHARS = 8  # the shortest part of a key that is hidden
_HIDDEN = "***"
# A longer pause that a server asks for is ignored.
_MOST_WAIT_S = 3_600.0
_MOST_TOKENS = 2**31 - 1


class Passing(TaskError):
    """A failure that may be temporary, or about this text only: an error, no answer, or a malformed answer.

    ``wait_s`` is the pause that the server asks for. ``throttles`` is True if the server is overloaded, and ``paid``
    if it answered with status 200. ``advice`` says what to do if the server is likely to refuse every request.
    ``tries`` is the number of requests about the same text.
    """

    tries = 1

    def __init__(
        self,
        message: str,
        wait_s: float | None = None,
        *,
        throttles: bool = False,
        paid: bool = False,
        advice: str | None = None,
    ) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        self.throttles = throttles
        self.paid = paid
        self.advice = advice


class ContentRefused(TaskError):
    """The server refuses the content of a request, and would refuse it again. ``said`` is its message."""

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.said = said


def error_of(
    status: int, headers: Mapping[str, str], raw: bytes, body: Mapping[str, Any], server: Server
) -> Passing | ContentRefused | ServerAway:
    """Return the error of an answer with this status. Its message has neither the key nor words of a text."""
    said, code = _message(raw)
    words = words_of(raw, body, server)
    shown = f"HTTP {status} ({words})" if words else f"HTTP {status}"
    if status in _OF_TEXTS:
        return ContentRefused(shown, said)
    if code in _NO_MONEY or status == 402:  # for every text, although a shorter request may still be affordable
        return ServerAway(f"{server.endpoint} refuses requests: {shown}. Check the balance of the account.")
    if (status >= _SERVER_ERROR and status not in _NEVER) or status in _PASS:
        return Passing(shown, _wait_s(headers), throttles=status in _OVERLOADED)
    advice = "Correct --endpoint, or check the server."
    if status == 401 or (status == 403 and server.api_key is None):
        verb = "Set" if server.api_key is None else "Correct"
        advice = f"{verb} the API key ({KEY_VARIABLE})."
    return Passing(shown, advice=advice)


def away(error: TaskError, server: Server, silence_s: float | None = None) -> ServerAway:
    """Return the error of a server that answers no request. ``silence_s`` is the time since its last answer."""
    if isinstance(error, ServerAway):
        return error
    if not isinstance(error, Passing):
        return ServerAway(f"{server.endpoint}: {error}")
    if error.advice is not None:
        return ServerAway(f"{server.endpoint} refuses requests: {error}. {error.advice}")
    if silence_s is None:
        state = f": {error}"
    elif (error.wait_s or 0.0) > server.patience_s:
        state = f" asks for a pause of {error.wait_s:,.0f} s: {error}."
    else:
        state = f" has answered nothing for {silence_s:,.0f} s, and now: {error}."
    return ServerAway(f"{server.endpoint}{state}", may_pass=not error.paid)


def refusal(error: TaskError, server: Server) -> CannotServe:
    """Return the error to raise if a served model cannot be opened."""
    reason = away(error, server)
    return (ServerUnreachable if reason.may_pass else CannotServe)(str(reason))


def words_of(raw: bytes, body: Mapping[str, Any], server: Server) -> str:
    """Return the message in a server's answer, without parts of the key; "" if it quotes a text."""
    text = " ".join(_texts(body).split())
    for words in _message(raw):
        line = masked(words, server.api_key)
        if line and not _quotes(line[: _MOST_CHARS + _QUOTED_CHARS], text):
            return (line if len(line) <= _MOST_CHARS else f"{line[:_MOST_CHARS]}…").rstrip(".")
    return ""


def words_in(message: Mapping[str, Any]) -> str:
    """Return the content of a chat message, and its calls of tools."""
    return "".join(str(message.get(part) or "") for part in ("content", "tool_calls"))


def masked(text: str, key: str | None) -> str:
    """Return a text with stars in place of each part of a key with eight characters or more."""
    if not key:
        return text
    size = min(_KEY_CHARS, len(key))
    parts = {key[start : start + size] for start in range(len(key) - size + 1)}
    kept: list[str] = []
    hidden_to = 0
    for place, character in enumerate(text):
        if text[place : place + size] in parts:
            if place >= hidden_to:
                kept.append(_HIDDEN)
            hidden_to = place + size
        if place >= hidden_to:
            kept.append(character)
    return "".join(kept)


def parse(raw: bytes) -> Any:
    """Return the JSON value of an answer, also if it has numbers that are too large for orjson. Raises ValueError."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        try:
            return json.loads(raw)
        except RecursionError:
            raise ValueError("too many levels") from None


def token_count(usage: object, name: str) -> int | None:
    """Return a number of tokens that a server states; None if it states none, or an impossible number."""
    value = usage.get(name) if isinstance(usage, Mapping) else None
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS
    return value if is_count else None


def lacking(refused: ContentRefused, body: Mapping[str, Any], hints: frozenset[str] = frozenset()) -> frozenset[str]:
    """Return the optional parts of a request that the server refuses: log-probabilities, old names, and ``hints``."""
    if MAX_TOKENS in body and _NEW_NAME in refused.said:
        return frozenset({MAX_TOKENS})
    return frozenset(part for part in {LOGPROBS, *hints} if part in body and part in refused.said)


def without(body: Mapping[str, Any], lacks: frozenset[str]) -> dict[str, Any]:
    """Return a request without the parts that the server refuses."""
    kept = dict(body)
    if MAX_TOKENS in lacks and MAX_TOKENS in kept:
        kept[_NEW_NAME] = kept[MAX_TOKENS]
    for part in lacks:
        kept.pop(part, None)
    return kept


def named(error: BaseException) -> str:
    """Return a phrase for a connection error."""
    return "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__


def _message(raw: bytes) -> tuple[str, str]:
    """Return the message and the code of an error, in any of the forms that servers use."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        text = raw[: 4 * _READ_CHARS].decode(errors="replace").strip()
        return ("", "") if text.startswith(("<", "{", "[")) else (_line(text), "")
    if isinstance(value, dict):
        value = value.get("error", value)
    if not isinstance(value, dict):
        return (_line(value), "") if isinstance(value, str) else ("", "")
    code = value.get("code") or value.get("type")
    return _line(value.get("message") or value.get("detail") or code), _line(code)


def _line(value: object) -> str:
    return " ".join(str(value or "")[:_READ_CHARS].split())


def _texts(body: Mapping[str, Any]) -> str:
    """Return the texts in a request."""
    return "\n".join([*map(words_in, body.get("messages") or ()), *(body.get("input") or ())])


def _quotes(message: str, text: str) -> bool:
    """Return True if a message quotes a part of the given text."""
    if len(message) < _QUOTED_CHARS:
        return False
    starts = range(len(message) - _QUOTED_CHARS + 1)
    return any(message[start : start + _QUOTED_CHARS] in text for start in starts)


def _wait_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110, section 10.2.3); None if it is missing or implausible."""
    for name, unit_s in (("retry-after-ms", 1e-3), ("Retry-After", 1.0)):
        value = headers.get(name, "").strip()
        try:
            wait_s = float(value) * unit_s
        except ValueError:
            try:
                wait_s = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, OverflowError):
                continue
        if wait_s <= _MOST_WAIT_S:  # False for NaN
            return max(0.0, wait_s)
    return None
