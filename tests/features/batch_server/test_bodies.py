"""Bodies of requests become options and texts, or a reason that names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from docmill.features.batch_server.bodies import BadRequest, parse_body
from docmill.features.batch_server.writer import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES
from docmill.tasks.kinds.options import KindOptions

HELLO = [{"role": "user", "content": "Hello"}]
INPUTS: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO},
    COMPLETIONS: {"prompt": "Hello"},
    EMBEDDINGS: {"input": "Hello"},
    RESPONSES: {"input": "Hello"},
}


def parse(url: str, **fields: Any) -> tuple[KindOptions, tuple[str, ...], dict[str, Any]]:
    """Return the options, the texts and the form of embeddings of a body."""
    return parse_body(url, {"model": "m", **INPUTS[url], **fields}, "float32")


def params(url: str, **fields: Any) -> dict[str, Any]:
    return parse(url, **fields)[0].to_params()


def test_parameters_are_those_of_generate() -> None:
    fields = {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 4, "n": 2, "stop": "\n"}
    options = {"max_new_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 4, "n": 2, "stop": ["\n"]}
    assert params(CHAT, **fields) == {"messages": "messages", **options}
    assert params(COMPLETIONS, **fields) == {"raw": True, **options}
    of_vllm = {"top_k": -1, "min_p": 0.1, "repetition_penalty": 1.1, "min_tokens": 2, "temperature": 1}
    assert params(CHAT, **of_vllm, max_tokens=5, max_completion_tokens=7) == {
        "messages": "messages",
        "max_new_tokens": 7,
        "temperature": 1.0,
        "top_k": 0,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "min_new_tokens": 2,
    }


def test_what_a_request_leaves_out_is_as_in_the_api() -> None:
    """A chat may fill the context, a completion has 16 tokens, and both are samples."""
    assert params(CHAT) == {"messages": "messages", "fill_context": True, "min_p": 0.0}
    assert params(COMPLETIONS) == {"raw": True, "max_new_tokens": 16, "min_p": 0.0}
    assert params(EMBEDDINGS) == {"prompt": "{text}"}
    assert params(CHAT, top_p=0.5, max_tokens=None) == {"messages": "messages", "fill_context": True, "top_p": 0.5}


def test_a_greedy_request_has_no_options_of_samples() -> None:
    greedy = {"messages": "messages", "max_new_tokens": 3, "temperature": 0.0}
    assert params(CHAT, temperature=0, max_tokens=3) == greedy
    assert params(CHAT, temperature=0, max_tokens=3, top_p=0.1, seed=9) == greedy
    assert params(CHAT, temperature=0, max_tokens=3, n=1, stop=[]) == greedy


def test_values_that_change_nothing_are_passed_over() -> None:
    same: dict[str, Any] = {"stream": False, "logprobs": None, "user": "u", "presence_penalty": 0, "tools": []}
    assert parse(CHAT, **same) == parse(CHAT, response_format={"type": "text"}) == parse(CHAT)


def test_messages_have_role_content_and_name() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "system", "content": "Be brief.", "tool_calls": None},
        {"role": "user", "content": parts, "name": "Ann"},
        {"role": "assistant", "content": None},
    ]
    _, [text], _ = parse(CHAT, messages=messages)
    assert json.loads(text) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a\nb", "name": "Ann"},
        {"role": "assistant", "content": ""},
    ]


def test_several_inputs_are_several_texts() -> None:
    assert parse(COMPLETIONS, prompt=["a", " b"])[1] == ("a", " b")
    _, texts, form = parse(EMBEDDINGS, input=["a", "b"], encoding_format="base64", dimensions=8)
    assert (texts, form) == (("a", "b"), {"encoding_format": "base64", "dimensions": 8})
    assert parse(EMBEDDINGS, encoding_format="float")[2] == {}


def test_a_json_schema_is_that_of_the_output() -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    response_format = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    assert json.loads(params(CHAT, response_format=response_format)["json_schema"]) == schema


@pytest.mark.parametrize(
    ("url", "fields", "says"),
    [
        (CHAT, {"stream": True}, '"stream" asks'),
        (CHAT, {"frobnicate": 1}, '"frobnicate" is a parameter that docmill does not know; leave it out, or give'),
        (EMBEDDINGS, {"temperature": 1}, f'"temperature" is no parameter of {EMBEDDINGS}'),
        (CHAT, {"temperature": -1}, '"temperature" must be at least 0'),
        (CHAT, {"max_tokens": 0}, '"max_tokens" must be'),
        (CHAT, {"temperature": 1, "seed": float(2**70)}, '"seed" must be between 0 and 2,147,483,647'),
        (CHAT, {"temperature": 1, "seed": 1.5}, '"seed" must be a whole number, not 1.5'),
        (CHAT, {"n": 2, "temperature": 0}, '"n" asks for several outputs, which would all be the same'),
        (CHAT, {"messages": []}, '"messages" must be a list of objects'),
        (CHAT, {"messages": None}, '"messages" is missing'),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "a part that is not text"),
        (CHAT, {"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}, "a tool call"),
        (CHAT, {"response_format": {"type": "json_object"}}, '"response_format" must be'),
        (RESPONSES, {"max_output_tokens": 0}, '"max_output_tokens" must be'),
        (RESPONSES, {"max_tokens": 3}, f'"max_tokens" is no parameter of {RESPONSES}'),
        (RESPONSES, {"previous_response_id": "resp_1"}, "is a parameter that docmill does not know"),
        (RESPONSES, {"tools": [{"type": "web_search"}]}, '"tools" asks'),
        (RESPONSES, {"input": 3}, '"input" must be a text, or a list of messages'),
        (RESPONSES, {"input": [{"type": "function_call_output"}]}, '"input" must be a text, or a list of messages'),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, '"input"[0] has a part'),
        (RESPONSES, {"input": [{"role": "user"}]}, '"input" must be a list of objects'),
        (RESPONSES, {"text": {"verbosity": "low"}}, '"text" must be'),
        (RESPONSES, {"text": {"format": {"type": "json_object"}}}, '"text.format" must be'),
        (COMPLETIONS, {"prompt": [1, 2]}, '"prompt" must have only texts'),
        (EMBEDDINGS, {"input": " "}, '"input" has a blank text'),
        (EMBEDDINGS, {"encoding_format": "hex"}, '"encoding_format" must be float or base64'),
        (EMBEDDINGS, {"dimensions": 0}, '"dimensions" must be a whole number'),
    ],
)
def test_a_bad_request_names_its_field(url: str, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(BadRequest) as raised:
        parse(url, **fields)
    assert says in str(raised.value)


def test_a_request_for_a_response_is_the_chat_that_it_stands_for() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    of_format = {"type": "json_schema", "name": "a", "schema": schema}
    chat = {"max_tokens": 9, "temperature": 0.5, "response_format": {"type": "json_schema", "json_schema": of_format}}
    assert parse(RESPONSES, max_output_tokens=9, temperature=0.5, text={"format": of_format}) == parse(CHAT, **chat)
    parts = [{"type": "input_text", "text": "Hello"}]
    messages = [{"role": "system", "content": "Be brief."}, *HELLO]
    message = {"type": "message", "role": "user", "content": parts}
    assert parse(RESPONSES, instructions="Be brief.", input=[message]) == parse(CHAT, messages=messages)
