"""A server's answers may be cut, late, or errors that quote a key or a text."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any, cast

import pytest

from docmill.storage.core.specs import Reason, Spec
from docmill.tasks.backends.remote import answers
from docmill.tasks.backends.remote.client import Client, Flight, Question
from docmill.tasks.backends.remote.journal import Journal
from docmill.tasks.backends.remote.served_models import ChatBackend, likelihood
from docmill.tasks.backends.static import Items
from docmill.tasks.errors import ServerAway
from docmill.tasks.models.weightless import Server
from docmill.tasks.outputs import Failure, Generated
from docmill.tasks.windows.windows import Encoded
from tests.tasks.backends.remote.api_server import completion
from tests.tasks.fakes import waiting

SERVER = Server("http://127.0.0.1:9/v1", "sk-secret-key")
SPEC = Spec("generate", "openai:small", "served")


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(SERVER, SPEC, ("/models", {}, lambda answer: answer))
    yield client
    client.close()


def read_answer(n: int, answer: Mapping[str, Any]) -> Any:
    """Return the outputs that a backend reads from an answer to a request for ``n``."""
    backend = object.__new__(ChatBackend)
    backend._body, backend._fingerprint, backend._stripped = {"n": n}, None, True
    return backend._read(answer)


@pytest.mark.parametrize("end", [None, "error", "abort", "insufficient_system_resource"])
def test_an_output_that_the_server_broke_off_is_rejected(end: Any) -> None:
    with pytest.raises(ValueError, match="no end"):
        read_answer(1, completion("half a", end).body)


@pytest.mark.parametrize(("end", "cut"), [("stop", False), ("length", True), ("model_length", True)])
def test_an_output_that_a_limit_ended_is_truncated(end: str, cut: bool) -> None:
    (output,) = read_answer(1, completion("a text", end).body)
    assert output.truncated is cut


def test_a_text_fails_if_the_server_writes_one_output_for_several() -> None:
    (output,) = read_answer(4, completion("a text").body)
    assert output == Failure("The server writes 1 output, not 4 as --n asks.", Reason.MODEL)


@pytest.mark.parametrize("content", [[{"token": "a", "logprob": None}], [{"token": "a"}], ["a"], 7])
def test_a_text_with_malformed_log_probabilities_has_no_confidence(content: Any) -> None:
    answer = completion("a text", logprobs={"content": content}).body
    assert likelihood(answer["choices"][0]) is None
    assert likelihood({"logprobs": ["a"]}) is None
    (output,) = read_answer(1, answer)
    assert (output.text, output.likelihood) == ("a text", None)


@pytest.mark.parametrize("status", [400, 403, 500, 503])
def test_an_error_has_neither_the_key_nor_words_of_a_text(status: int) -> None:
    request = {"messages": [{"role": "user", "content": "words of a private document"}]}
    for secret in ("sk-secret-key", "of a private document"):
        raw = b'{"error": {"message": "not for you: %s"}}' % secret.encode()
        error = answers.error_of(status, {}, raw, request, SERVER)
        assert secret not in str(error)
        assert str(status) in str(error)
    assert "for you" in str(answers.error_of(status, {}, b'{"error": "not for you"}', request, SERVER))


def test_no_part_of_a_key_stays_at_the_end_of_a_message() -> None:
    key = "sk-0123456789abcdef"
    server = Server("http://127.0.0.1:9/v1", key)
    for characters in range(280, 310):
        raw = b'{"error": {"message": "%s%s and more"}}' % (b"x" * characters, key.encode())
        message = str(answers.error_of(400, {}, raw, {}, server))
        assert not any(key[start : start + 8] in message for start in range(len(key)))
        assert "xxx" in message


def test_an_error_that_quotes_a_text_is_reported_by_its_code() -> None:
    raw = b'{"error": {"message": "blocked: words of a private document", "code": "content_policy"}}'
    call = {"type": "function", "function": {"name": "f", "arguments": "words of a private document"}}
    for message in ({"content": "words of a\nprivate document"}, {"tool_calls": [call]}):
        request = {"messages": [{"role": "user", **message}]}
        assert str(answers.error_of(403, {}, raw, request, SERVER)) == "HTTP 403 (content_policy)"


def test_the_stored_facts_about_a_server_do_not_have_the_key() -> None:
    backend = object.__new__(ChatBackend)
    backend._server, backend._fingerprint = SERVER, "fp sk-secret-key"
    backend._model = {"id": "small", "owned_by": "team of sk-secret-key"}
    facts = backend.runtime()
    assert "sk-secret" not in str(facts)
    assert facts["versions"]["id"] == "small"


def test_answers_that_came_before_the_server_went_away_are_kept(client: Client) -> None:
    away = ServerAway("no money left")
    for finished in ((1, "first"), away, (2, "second")):
        client._finished.put(cast(Any, finished))
    assert client.finished(0) == [(1, "first")]
    assert client.finished(0) == [(2, "second")]
    with pytest.raises(ServerAway, match="no money"):
        client.finished(0)


def test_a_request_that_is_dropped_before_it_starts_is_finished(client: Client) -> None:
    both_wait = threading.Event()
    client._loop.call_soon_threadsafe(both_wait.wait)
    begun = client.begin(("/chat/completions", {}, lambda answer: answer))
    client.end_soon()
    both_wait.set()
    assert client.finished(30.0) == [(begun, None)]


def test_a_late_answer_to_one_flight_does_not_count_in_the_next(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def question(items: Items) -> Question:
        (item,) = items
        return "/chat/completions", {}, lambda _: [Generated(str(item.encoded.features), 1)]

    numbers = count()

    def answer_at_once(request: Question) -> int:
        number, (_, _, parse) = next(numbers), request
        client._finished.put((number, parse(None)))
        return number

    monkeypatch.setattr(client, "begin", answer_at_once)
    journal = Journal(None, SPEC)
    next(Flight(client, journal, question).run(waiting(Encoded(1, text) for text in "abc")))
    client._finished.put((1, [Generated("late", 1)]))
    outputs = dict(Flight(client, journal, question).run(waiting(Encoded(1, text) for text in "def")))
    assert [cast(Generated, outputs[number]).text for number in range(3)] == ["d", "e", "f"]
