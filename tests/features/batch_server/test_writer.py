"""Answers in OpenAI's batch format, held against the types of the package `openai`."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion

from docmill.features.batch_server.writer import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    NAME,
    REQUEST,
    is_error,
    make_answer,
    make_error,
    make_unanswered,
)
from docmill.storage.writers import Target
from docmill.storage.writers.formats import FormatUnfit

NOW = 1_790_000_000


def row(url: str, output: dict[str, Any], flags: tuple[str, ...] = (), **request: Any) -> dict[str, Any]:
    fields = {"custom_id": "a", "url": url, "model": "m", "line": 1, **request}
    return {"id": "a", **output, "tokens_in": 5, "tokens_out": 3, "flags": [*flags], "meta": {REQUEST: fields}}


def body_of(line: dict[str, Any]) -> dict[str, Any]:
    assert line.keys() == {"id", "custom_id", "response", "error"}
    assert line["response"].keys() == {"status_code", "request_id", "body"}
    assert line["error"] is None
    body: dict[str, Any] = line["response"]["body"]
    return body


def test_a_chat_is_a_chat_completion() -> None:
    completion = ChatCompletion.model_validate(body_of(make_answer([row(CHAT, {"text": "Hi."})], NOW)), strict=True)
    assert (completion.model, completion.created) == ("m", NOW)
    assert completion.choices[0].message.content == "Hi."
    assert completion.choices[0].finish_reason == "stop"
    usage = completion.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 3, 8)


def test_an_output_at_its_limit_has_the_reason_length() -> None:
    cut = make_answer([row(CHAT, {"text": "Hi"}, ("output_truncated",))], NOW)
    assert ChatCompletion.model_validate(body_of(cut)).choices[0].finish_reason == "length"
    several = row(CHAT, {"text": "a", "texts": ["a", "b"], "truncated": [1]}, ("output_truncated",))
    choices = ChatCompletion.model_validate(body_of(make_answer([several], NOW))).choices
    assert [(choice.index, choice.message.content, choice.finish_reason) for choice in choices] == [
        (0, "a", "stop"),
        (1, "b", "length"),
    ]


def test_the_prompts_of_a_completion_are_its_choices() -> None:
    rows = [row(COMPLETIONS, {"text": text}, of=2, index=n) for n, text in enumerate("xy")]
    completion = Completion.model_validate(body_of(make_answer(rows, NOW)), strict=True)
    assert [(choice.index, choice.text) for choice in completion.choices] == [(0, "x"), (1, "y")]
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (10, 6)


def test_embeddings_are_numbers_or_base64_and_may_be_cut(tmp_path: Path) -> None:
    vector = np.array([0.6, 0.0, 0.8], np.float32)
    rows = [row(EMBEDDINGS, {"vector": vector}, of=2, index=n) for n in range(2)]
    assert Target.of(tmp_path / "out.jsonl", NAME).write(rows) == 1
    embeddings = CreateEmbeddingResponse.model_validate(body_of(json.loads((tmp_path / "out.jsonl").read_bytes())))
    assert [embedding.index for embedding in embeddings.data] == [0, 1]
    assert np.array_equal(np.array(embeddings.data[1].embedding, np.float32), vector)
    assert embeddings.usage.prompt_tokens == embeddings.usage.total_tokens == 10
    [encoded] = body_of(make_answer([row(EMBEDDINGS, {"vector": vector}, encoding_format="base64")], NOW))["data"]
    assert np.array_equal(np.frombuffer(base64.b64decode(encoded["embedding"]), "<f4"), vector)
    [cut] = body_of(make_answer([row(EMBEDDINGS, {"vector": vector}, dimensions=2)], NOW))["data"]
    assert cut["embedding"].tolist() == [1.0, 0.0]
    too_many = make_answer([row(EMBEDDINGS, {"vector": vector}, dimensions=4)], NOW)
    assert is_error(too_many)
    assert "have 3 dimensions; 4 were requested" in body_of(too_many)["error"]["message"]
    placed = make_answer([row(EMBEDDINGS, {"vector": vector}, dimensions=4)], NOW, "in.jsonl:7")
    assert body_of(placed)["error"]["message"].startswith('in.jsonl:7: "dimensions": ')


def test_errors_are_those_of_the_error_file() -> None:
    line = make_error("a", "b.jsonl:3", "no")
    assert is_error(line)
    assert line["response"]["status_code"] == 400
    assert body_of(line)["error"]["message"] == "b.jsonl:3: no"
    assert make_error(None, "b.jsonl:3", "no")["id"] != make_error(None, "b.jsonl:4", "no")["id"]
    lost = make_unanswered("a", "batch_cancelled", "it was")
    assert is_error(lost)
    assert (lost["response"], lost["error"]) == (None, {"code": "batch_cancelled", "message": "it was"})


def test_results_of_another_source_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatUnfit, match="x is not a request of a batch file"):
        Target.of(tmp_path / "out.jsonl", NAME).write([{"id": "x", "text": "a", "meta": {}}])
    assert [*tmp_path.iterdir()] == []
