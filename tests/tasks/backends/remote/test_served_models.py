"""The remote backend loses no text and repeats no answer, however its server fails."""

from __future__ import annotations

import gzip
import json
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docmill.storage.core.specs import Outcome, Reason, Spec, Status
from docmill.storage.outputs.output_types import SCHEMA
from docmill.tasks.backends.remote import answers
from docmill.tasks.backends.remote.requests import TokenCounter
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.engine.engine import Engine
from docmill.tasks.engine.tickets import Ticket
from docmill.tasks.errors import CannotServe, ServerUnreachable
from docmill.tasks.models.weightless import Server
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from tests.tasks.backends.remote.api_server import MODEL, ApiServer, ServerAnswer, completion, error, text_of, vectors
from tests.tasks.backends.remote.conftest import Serve
from tests.tasks.conftest import outcomes_of, vector_of
from tests.tasks.fakes import plan_spec
from tests.worker.harness import until

KEY = "sk-secret-key"
TEXTS = [f"document number {number}." for number in range(40)]


def spec_of(kind: str, model: str = f"openai:{MODEL}", **options: Any) -> Spec:
    """Return the spec of a kind of task by a served model."""
    folders = ModelFolders(None, Path("unused"))
    pinned = pinning.pin(model, folders)
    config = pinning.read_config(pinned, folders)
    return plan_spec(kind, config, pinned=pinned, **options)


GENERATE = spec_of("generate", prompt="{text}")


@contextmanager
def engine_on(api: ApiServer, journal: Path | None = None, /, **patience: float) -> Iterator[Engine]:
    """Yield an engine that waits a millisecond where it would wait a second."""
    server = Server(api.endpoint, KEY, journal=journal, **{"first_wait_s": 0.001, **patience})  # type: ignore[arg-type]

    def opened(spec: Spec) -> Any:
        return open_backend(spec, device="remote", folders=ModelFolders(None, Path("unused")), server=server)

    with closing(Engine(opened)) as engine:
        engine.start()
        yield engine


def submit(engine: Engine, spec: Spec, texts: Sequence[str]) -> Ticket:
    """Return the ticket of texts after it is over."""
    ticket = engine.submit(spec, list(enumerate(texts)))
    assert ticket.wait(60)
    return ticket


def compute(server: ApiServer, spec: Spec, texts: Sequence[str], **patience: float) -> list[Outcome]:
    with engine_on(server, **patience) as engine:
        return outcomes_of(engine, spec, texts)


CUT = replace(completion("cut"), cut=True)
# By the end of a text: the first two answers to its requests.
FAILURES = {
    "number 0.": error(500, "internal"),
    "number 1.": error(503, "overloaded"),
    "number 2.": error(429, "slow down", Retry_After="0"),
    "number 3.": ServerAnswer(200, b'{"choices": [{"index": 0, "message": {"conte'),
    "number 4.": ServerAnswer(200, {"object": "nothing of this kind"}),
    "number 5.": ServerAnswer(200, {"choices": []}),
    "number 6.": ServerAnswer(
        200, {"choices": [{"index": 0, "message": {"content": "half"}, "finish_reason": None}]}
    ),
    "number 7.": ServerAnswer(200, b"<html>a proxy</html>"),
    "number 8.": error(502),
    "number 9.": CUT,
    "number 10.": error(408),
    "number 11.": ServerAnswer(200, {"choices": [{"message": {"content": ["parts"]}, "finish_reason": "stop"}]}),
}


def test_a_request_is_repeated_after_each_kind_of_failure_and_no_answer_is_requested_twice(serve: Serve) -> None:
    def script(request: dict[str, Any], times: int) -> ServerAnswer | None:
        failing = next((place for place in FAILURES if text_of(request).endswith(place)), None)
        return None if failing is None or times > 2 else FAILURES[failing]

    server = serve(script)
    outcomes = compute(server, GENERATE, TEXTS)
    assert [outcome.text for outcome in outcomes] == [text.upper() for text in TEXTS]
    failed = {f"document {place}" for place in FAILURES}
    assert {text: server.of(text) for text in TEXTS} == {text: 3 if text in failed else 1 for text in TEXTS}
    assert server.keys == {f"Bearer {KEY}"}


def test_an_outcome_has_the_servers_usage_and_log_probabilities(serve: Serve) -> None:
    server = serve(lambda request, _: completion("two words", "length", read_tokens=123))
    (outcome,) = compute(server, GENERATE, ["a text"])
    assert (outcome.tokens_in, outcome.tokens_out, outcome.flags) == (123, 2, ("output_truncated",))
    assert (outcome.mean_logprob, outcome.least_logprob) == (-0.5, -0.5)


ABSURD = ("1e12", "inf", "nan", "Fri, 21 Oct 2095 07:28:00 GMT", "9" * 400, "soon")


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        ({"Retry-After": "7"}, 7),
        ({"retry-after-ms": "250"}, 0.25),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"Retry-After": "3600"}, 3600),
        ({"Retry-After": "-1"}, 0),
        *(({"Retry-After": absurd}, None) for absurd in ABSURD),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_an_absurd_one_is_the_usual_pause(
    header: dict[str, str], wait_s: float | None
) -> None:
    passing = answers.error_of(429, header, b"", {}, Server("http://x/v1"))
    assert isinstance(passing, answers.Passing)
    assert passing.wait_s == wait_s


def test_a_text_that_the_server_refuses_fails_with_the_reason_and_is_not_sent_again(serve: Serve) -> None:
    long = "maximum context length is 4096 tokens, and yours has 5000"
    server = serve(lambda request, _: error(400, long) if "number 3." in text_of(request) else None)
    outcomes = compute(server, GENERATE, TEXTS)
    assert [outcome.content_id for outcome in outcomes if outcome.status is Status.FAILED] == [3]
    assert long in (outcomes[3].reason or "")
    assert len(server.requests) == len(TEXTS)


def test_a_text_slower_than_the_patience_fails_alone_while_the_server_answers(serve: Serve) -> None:
    never = threading.Event()

    def script(request: dict[str, Any], times: int) -> ServerAnswer | None:
        if "number 3." in text_of(request):
            never.wait(60)
        return None

    server = serve(script)
    with engine_on(server, answer_s=2, patience_s=0.1) as engine:
        assert submit(engine, GENERATE, TEXTS[:1]).complete
        ticket = submit(engine, GENERATE, TEXTS[3:4])
        assert ticket.away is None
        (failed,) = ticket.finished()
        assert (failed.status, failed.reason_class) == (Status.FAILED, Reason.TRANSIENT)
        assert "no answer within 2 s (DOCMILL_ENDPOINT_ANSWER_S)" in (failed.reason or "")
        server.script = lambda request, times: script(request, times) or error(502)  # a gateway alone
        away = submit(engine, GENERATE, TEXTS[3:4]).away
        assert away is not None
        assert away.may_pass
    never.set()


GUARDED = error(403, f"our guardrail blocks this, {KEY}", "blocked")


@pytest.mark.parametrize(
    ("answer", "message", "reason"),
    [
        (GUARDED, "HTTP 403 (our guardrail blocks this, ***)", Reason.DOCUMENT),
        (error(404, "no such page"), "HTTP 404 (no such page)", Reason.DOCUMENT),
        (
            ServerAnswer(418, b"I am a teapot.", {"Content-Type": "text/plain"}),
            "HTTP 418 (I am a teapot)",
            Reason.DOCUMENT,
        ),
        (error(500, "a bug"), "HTTP 500 (a bug)", Reason.TRANSIENT),
        (error(503, "too long for us"), "HTTP 503 (too long for us)", Reason.TRANSIENT),
        (ServerAnswer(200, b"<html>a proxy</html>"), "half an answer", Reason.TRANSIENT),
        (ServerAnswer(200, {"error": {"message": "upstream is gone"}}), "upstream is gone", Reason.TRANSIENT),
        (CUT, "ClientPayloadError", Reason.TRANSIENT),
    ],
)
def test_a_text_that_a_server_always_answers_badly_fails_alone(
    serve: Serve, answer: ServerAnswer, message: str, reason: Reason
) -> None:
    server = serve(lambda request, _: answer if "number 3." in text_of(request) else None)
    with engine_on(server, patience_s=0.05) as engine:  # as after `docmill retry`, when no text was answered before
        ticket = submit(engine, GENERATE, TEXTS[3:4])
        assert ticket.away is None
        (failed,) = ticket.finished()
        assert (failed.status, failed.reason_class) == (Status.FAILED, reason)
        assert message in (failed.reason or "")
        assert answers.KEY_VARIABLE not in (failed.reason or "")
        assert server.of(TEXTS[3]) <= 8
        server.script = lambda request, _: answer
        away = submit(engine, GENERATE, TEXTS[4:5]).away
        is_paid = answer.status == 200 and isinstance(answer.body, dict) and not answer.cut
        assert is_paid or message in str(away)


@pytest.mark.parametrize("body", [{"choices": []}, ["a list"]])
def test_a_text_fails_after_three_answers_that_make_no_sense(serve: Serve, body: Any) -> None:
    server = serve(lambda request, _: ServerAnswer(200, body))
    outcomes = compute(server, GENERATE, TEXTS)
    assert {outcome.status for outcome in outcomes} == {Status.FAILED}
    assert {server.of(text) for text in TEXTS} == {3}
    assert "3 times" in (outcomes[0].reason or "")


def test_an_answer_is_not_read_beyond_its_limit_although_it_is_compressed(serve: Serve) -> None:
    blanks = gzip.compress(b" " * 2**26, 1)
    bomb = ServerAnswer(200, blanks, {"Content-Encoding": "gzip"})
    server = serve(lambda request, _: bomb if "number 3." in text_of(request) else None)
    outcomes = compute(server, GENERATE, TEXTS)
    assert [outcome.content_id for outcome in outcomes if outcome.status is Status.FAILED] == [3]
    assert "an answer of more than 32 MiB" in (outcomes[3].reason or "")


@pytest.mark.parametrize("number", [b"-5", b"1099511627776", b"1e400", b'"abc"', b"1.5", b"true", b"null", b"[]"])
def test_an_impossible_usage_is_none(number: bytes) -> None:
    usage = answers.parse(b'{"usage": {"prompt_tokens": %s}}' % number)["usage"]
    assert answers.token_count(usage, "prompt_tokens") is None


def test_tokens_are_estimated_if_the_server_does_not_count_them(serve: Serve) -> None:
    def answer(request: dict[str, Any], times: int) -> ServerAnswer | None:
        if request.get("input") == ["text"]:
            return None
        raw = json.dumps((vectors(request) if "input" in request else completion("two words")).body).encode()
        return ServerAnswer(200, re.sub(rb'("(prompt|completion)_tokens": )\d+', rb"\g<1>null", raw))

    server = serve(answer)
    (outcome,) = compute(server, GENERATE, ["a text"])
    expected = TokenCounter().of_messages([{"content": "a text"}])
    assert (outcome.text, outcome.tokens_in, outcome.tokens_out) == ("two words", expected, 0)
    (outcome,) = compute(server, spec_of("embed"), ["a text"])
    assert (outcome.status, outcome.tokens_in) == (Status.DONE, TokenCounter().of_text("a text"))
    assert len(server.requests) == 3


def test_a_call_of_a_tool_fails_its_text(serve: Serve) -> None:
    tool: dict[str, Any] = {"message": {"content": None, "tool_calls": [{"function": {"name": "search"}}]}}
    server = serve(lambda request, _: completion("", "tool_calls", **tool))
    (outcome,) = compute(server, GENERATE, ["a text"])
    assert (outcome.status, outcome.reason_class) == (Status.FAILED, Reason.MODEL)
    assert "calls a tool and writes no text (finish_reason tool_calls)" in (outcome.reason or "")
    assert len(server.requests) == 1


def test_a_drain_waits_for_the_answers_under_way_and_repeats_no_request(serve: Serve) -> None:
    held, failed_once = threading.Event(), threading.Event()

    def script(request: dict[str, Any], times: int) -> ServerAnswer | None:
        if "number 0." in text_of(request):
            failed_once.set()
            return error(500)
        held.wait(60)
        return None

    server = serve(script)
    with engine_on(server, first_wait_s=3600.0) as engine:
        ticket = engine.submit(GENERATE, list(enumerate(TEXTS)))
        until(lambda: failed_once.is_set() and server.at_a_time >= 8, "some requests are under way, and one waits")
        draining = threading.Thread(target=engine.drain)
        draining.start()
        until(lambda: engine._models.stopping, "the drain has begun")
        held.set()
        draining.join(60)
        assert ticket.wait(60)
        done_ids = {outcome.content_id for outcome in ticket.finished()}
    asked_ids = {number for number, text in enumerate(TEXTS) if server.of(text)}
    assert done_ids == asked_ids - {0}
    assert 0 < len(done_ids) < len(TEXTS) - 1
    assert len(server.requests) == len(asked_ids)


@pytest.mark.parametrize(
    ("answer", "message", "may_pass"),
    [
        (error(401, "bad key"), answers.KEY_VARIABLE, False),
        (error(404, "no such model"), "no such model", False),
        (error(429, "no money", "insufficient_quota"), "no money", False),
        (error(429, "slow down"), "answered nothing", True),
        (error(429, "daily limit", Retry_After="600"), "asks for a pause of 600 s: HTTP 429 (daily limit)", True),
        (error(500, "down"), "answered nothing", True),
    ],
)
def test_a_server_that_refuses_every_request_fails_no_text_and_is_opened_again(
    serve: Serve, answer: ServerAnswer, message: str, may_pass: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve(lambda request, _: answer)
    with engine_on(server, patience_s=0.05) as engine:
        ticket = submit(engine, GENERATE, TEXTS)
        assert ticket.away is not None
        assert message in str(ticket.away)
        assert ticket.away.may_pass is may_pass
        assert not ticket.finished()
        server.script = lambda request, times: None
        assert {outcome.status for outcome in outcomes_of(engine, GENERATE, TEXTS)} == {Status.DONE}
    assert KEY not in caplog.text


def test_a_server_without_the_model_is_refused_with_what_to_do(serve: Serve) -> None:
    server = serve()
    for model, models, kind, message in [
        ("openai:other", server.models, CannotServe, f"no model other, but {MODEL}"),
        ("openai:small", 401, CannotServe, answers.KEY_VARIABLE),
        ("openai:small", 501, CannotServe, "check the server"),
        ("openai:small", 503, ServerUnreachable, "HTTP 503"),
    ]:
        server.models = models
        with engine_on(server) as engine, pytest.raises(CannotServe, match=message) as refused:
            engine.open(spec_of("generate", model, prompt="{text}"))
        assert type(refused.value) is kind
    server.models = 404  # it has no list of models
    assert compute(server, GENERATE, ["a text"])[0].text == "A TEXT"
    away = Server("http://127.0.0.1:9/v1")
    for server_settings, message in [(away, "does not answer"), (None, "DOCMILL_ENDPOINT")]:
        with pytest.raises(CannotServe, match=message):
            open_backend(GENERATE, device="cpu", folders=ModelFolders(None, Path("unused")), server=server_settings)


def test_requests_adapt_to_a_server_without_log_probabilities_or_with_another_name_of_the_limit(serve: Serve) -> None:
    def script(request: dict[str, Any], times: int) -> ServerAnswer | None:
        if "logprobs" in request:
            return error(400, "logprobs are not supported with reasoning models")
        if "max_tokens" in request:
            return error(400, "Use 'max_completion_tokens' instead.")
        return None

    server = serve(script)
    outcomes = compute(server, GENERATE, TEXTS)
    assert {outcome.status for outcome in outcomes} == {Status.DONE}
    assert server.requests[-1]["max_completion_tokens"] == 256


def test_a_server_may_ignore_the_least_tokens_of_a_length_but_not_those_of_an_option(serve: Serve) -> None:
    refusal = error(400, "Unrecognized request argument supplied: min_tokens")
    server = serve(lambda request, _: refusal if "min_tokens" in request else completion("a summary"))
    (summary,) = compute(server, spec_of("summarize", length="short"), TEXTS[:1])
    assert (summary.text, "about 30 words" in text_of(server.requests[-1])) == ("a summary", True)
    (failed,) = compute(server, spec_of("generate", prompt="{text}", min_new_tokens=5), TEXTS[:1])
    assert "min_tokens" in (failed.reason or "")


def test_a_request_follows_the_options(serve: Serve) -> None:
    server = serve()
    options: dict[str, Any] = {"prompt": "Say {text}!", "system": "Be brief.", "stop": ["\n"], "max_new_tokens": 9}
    compute(server, spec_of("generate", **options), ["it"])
    (request,) = server.requests
    assert request["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say it!"}]
    assert (request["temperature"], request["max_tokens"], request["stop"]) == (0, 9, ["\n"])
    assert "seed" not in request
    compute(server, spec_of("generate", prompt="{text}", temperature=0.7, top_p=0.9, seed=3), ["it"])
    sampled = server.requests[-1]
    assert (sampled["temperature"], sampled["top_p"], sampled["seed"]) == (0.7, 0.9, 3)


def test_summaries_translations_and_answers_use_the_built_in_prompts(serve: Serve) -> None:
    server = serve(lambda request, _: completion("an answer"))
    for spec in (
        spec_of("summarize"),
        spec_of("translate", source_lang="fr", target_lang="en"),
        spec_of("answer", question={"who": "Who wrote it?"}),
    ):
        (outcome,) = compute(server, spec, ["Un texte assez court."])
        assert outcome.status is Status.DONE
    messages = [text_of(request) for request in server.requests]
    assert all("Un texte" in text for text in messages)
    assert "French" in messages[1]
    assert "Who wrote it?" in messages[2]
    assert outcome.data == {"data": {"who": "an answer"}}


@pytest.mark.parametrize("stated", [{"max_model_len": 4096}, {"meta": {"n_ctx": 4096, "n_ctx_train": 131_072}}])
def test_a_long_text_is_split_by_an_estimate_into_windows_that_fit_the_server(
    serve: Serve, stated: dict[str, Any]
) -> None:
    server = serve(lambda request, _: completion("part"))
    server.models = [{"id": MODEL, **stated}]
    text = " ".join(["word"] * 20_000)
    (outcome,) = compute(server, GENERATE, [text])
    assert "windowed" in outcome.flags
    assert len(server.requests) > 1
    assert max(len(text_of(request).encode()) for request in server.requests) / 3 <= 4096 - 256


SHAPE = {"type": "object", "properties": {"year": {"type": "integer"}}, "required": ["year"]}


def test_records_are_requested_by_their_schema_and_validated(serve: Serve) -> None:
    records = {"number 0.": '{"year": 1912}', "number 1.": '{"year": "old"}', "number 2.": '{"year": 19'}

    def script(request: dict[str, Any], times: int) -> ServerAnswer | None:
        return next((completion(text) for place, text in records.items() if place in text_of(request)), None)

    server = serve(script)
    spec = spec_of("extract", json_schema=json.dumps(SHAPE))
    good, wrong, half = compute(server, spec, TEXTS[:3])
    assert good.data == {"data": {"year": 1912}}
    assert (wrong.status, half.status) == (Status.FAILED, Status.FAILED)
    assert "no JSON" in (half.reason or "")
    response_format = server.requests[0]["response_format"]
    assert response_format["type"] == "json_schema"
    assert response_format["json_schema"]["schema"] == json.loads(spec.params[SCHEMA])
    assert "strict" not in response_format["json_schema"]  # the schema leaves other properties open


def test_texts_are_embedded_several_in_a_request_and_a_bad_text_fails_alone(serve: Serve) -> None:
    def script(request: dict[str, Any], times: int) -> ServerAnswer | None:
        if any("number 7." in text for text in request["input"]):
            return error(400, "too long")
        return error(500) if times == 1 and request["input"] != ["text"] else None

    server = serve(script)
    texts = [f"{text}{' more' * number}" for number, text in enumerate(TEXTS)]
    outcomes = compute(server, spec_of("embed", prompt="passage: {text}"), texts)
    assert [outcome.content_id for outcome in outcomes if outcome.status is Status.FAILED] == [7]
    prompted = [f"passage: {text}" for text in texts]
    done = [outcome for outcome in outcomes if outcome.status is Status.DONE]
    for outcome in done:
        expected = vectors({"input": [prompted[outcome.content_id]]}).body["data"][0]["embedding"]
        assert np.allclose(vector_of(outcome), expected, atol=1e-6)
    assert max(len(request["input"]) for request in server.requests) == 32
    assert sum(outcome.tokens_in for outcome in done) == sum(map(len, prompted)) - len(prompted[7])


def test_a_request_is_repeated_if_a_vector_is_missing(serve: Serve) -> None:
    def script(request: dict[str, Any], times: int) -> ServerAnswer | None:
        if times > 1 or request["input"] == ["text"]:
            return None
        return ServerAnswer(body={"data": [{"index": 0, "embedding": [1.0]}]})

    outcomes = compute(serve(script), spec_of("embed"), TEXTS)
    assert {outcome.status for outcome in outcomes} == {Status.DONE}
