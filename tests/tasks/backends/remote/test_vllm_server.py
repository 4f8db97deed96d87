"""Served models on a real vLLM server, with a small model of random weights: text, usage, log-probabilities, records.

vLLM has an environment of its own (`make test-vllm`).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator

from docmill.storage.core.specs import Spec, Status
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.engine.engine import Engine
from docmill.tasks.models.weightless import Server
from docmill.tasks.models.weights import ModelFolders
from tests.tasks.backends.remote.test_served_models import spec_of
from tests.tasks.conftest import data_of, outcomes_of
from tests.tasks.decoders import DECODERS

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(600)]

NAME, CONTEXT_TOKENS, NEW_TOKENS = "small", 256, 12
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["tool", "game"]}, "free": {"type": "boolean"}},
    "required": ["kind", "free"],
    "additionalProperties": False,
}


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, descriptions: list[str]) -> Iterator[str]:
    """The URL of a vLLM server that has just answered."""
    torch.manual_seed(11)
    folder = tmp_path_factory.mktemp("server")
    model = DECODERS["llama"](folder / "llama", descriptions[:40])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(model),
        "--dtype",
        "float32",
    ]
    command += ["--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    command += ["--max-model-len", str(CONTEXT_TOKENS), "--max-num-seqs", "16"]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    url = f"http://127.0.0.1:{port}/v1"
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env={**os.environ, **settings}, stdout=log, stderr=subprocess.STDOUT)
        try:
            while True:
                assert server.poll() is None, (folder / "log").read_text()[-3000:]
                try:
                    ask(f"{url}/models")
                    break
                except urllib.error.URLError:
                    time.sleep(0.2)
            yield url
        finally:
            server.terminate()
            server.wait(60)


@pytest.fixture(scope="module")
def engine(endpoint: str) -> Iterator[Engine]:
    def opened(spec: Spec) -> Any:
        return open_backend(
            spec, device="remote", folders=ModelFolders(None, Path("unused")), server=Server(endpoint)
        )

    engine = Engine(opened)
    engine.start()
    yield engine
    engine.close()


def test_texts_are_written_with_the_servers_own_counts_and_log_probabilities(
    engine: Engine, endpoint: str, descriptions: list[str]
) -> None:
    texts = [" ".join(text.split()[: 5 + number]) for number, text in enumerate(descriptions[:24])]
    spec = spec_of("generate", f"openai:{NAME}", prompt="{text}", max_new_tokens=NEW_TOKENS)
    outcomes = outcomes_of(engine, spec, texts)
    assert [outcome.status for outcome in outcomes] == [Status.DONE] * len(texts)
    for outcome in outcomes:
        body = {"model": NAME, "messages": [{"role": "user", "content": texts[outcome.content_id]}], "max_tokens": 1}
        assert outcome.tokens_in == ask(f"{endpoint}/chat/completions", body)["usage"]["prompt_tokens"]
        assert 0 < outcome.tokens_out <= NEW_TOKENS
        assert outcome.mean_logprob is not None
        assert outcome.mean_logprob <= 0
    runtime = engine.open(spec)
    assert runtime["versions"]["max_model_len"] == str(CONTEXT_TOKENS)


def test_records_are_held_to_their_schema_by_the_server(engine: Engine, descriptions: list[str]) -> None:
    texts = [" ".join(text.split()[:20]) for text in descriptions[:8]]
    spec = spec_of("extract", f"openai:{NAME}", json_schema=json.dumps(SCHEMA), prompt="{text}", max_new_tokens=64)
    outcomes = outcomes_of(engine, spec, texts)
    validator = Draft202012Validator(SCHEMA)
    valid = [outcome for outcome in outcomes if outcome.status is Status.DONE]
    assert valid, [outcome.reason for outcome in outcomes]
    for outcome in valid:
        validator.validate(data_of(outcome)["data"])
