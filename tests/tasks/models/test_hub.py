"""The ordinary path of a hub id, against a hub of our own, in processes of their own (the hub's client reads
its settings at import)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.tasks import architectures
from tests.tasks.hub_server import COMMIT, hub
from tests.worker.harness import run_program

PROGRAM = """
import json, sys
from pathlib import Path
from docmill.tasks import kinds
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.engine.engine import Engine
from docmill.tasks.errors import TaskError
from docmill.tasks.specs import pinning
from docmill.tasks.specs.plan import build_spec

model, cache = sys.argv[1], Path(sys.argv[2])
try:
    pinned = pinning.pin(model, models_dir=None, cache_dir=cache)
    config = pinning.read_config(pinned, models_dir=None)
    spec = build_spec("summarize", pinned, kinds.options("summarize", max_new_tokens=8), config)
    engine = Engine(lambda spec: open_backend(spec, device="cpu", models_dir=None, cache_dir=cache))
    engine.start()
    ticket = engine.submit(spec, [(1, "A package of tools.")])
    assert ticket.wait(60)
    engine.close()
    status = ticket.finished()[0].status
    answer = {"revision": pinned.revision, "type": config["model_type"], "status": status}
except TaskError as error:
    answer = {"error": type(error).__name__, "message": str(error)}
print(json.dumps(answer))
"""


def use(endpoint: str, model: str, home: Path, **environment: str) -> dict[str, Any]:
    settings = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        **environment,
    }
    answer: dict[str, Any] = json.loads(run_program(PROGRAM, model, home / "docmill", environment=settings))
    return answer


@pytest.fixture(scope="module")
def small_t5(tmp_path_factory: pytest.TempPathFactory, descriptions: list[str]) -> Path:
    folder = architectures.t5(tmp_path_factory.mktemp("hub") / "t5-small", descriptions[:40])
    (folder / "pytorch_model.bin").write_bytes(b"must not be fetched")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"nor this")
    return folder


def test_a_hub_id_is_pinned_to_its_commit_downloaded_and_served_then_works_offline(
    small_t5: Path, tmp_path: Path
) -> None:
    with hub("t5-small", small_t5) as (endpoint, asked):
        answer = use(endpoint, "t5-small", tmp_path)
        assert answer == {"revision": COMMIT, "type": "t5", "status": "done"}
        files = {path.rpartition("/")[2] for path in asked if "/resolve/" in path}
        assert "model.safetensors" in files
        assert not {"pytorch_model.bin", "model.onnx"} & files
    # The hub is gone: what the cache last saw under the name is still a commit, and its files are here.
    assert use(endpoint, "t5-small", tmp_path) == answer


def test_a_hub_that_does_not_answer_is_said_so_in_one_sentence(small_t5: Path, tmp_path: Path) -> None:
    answer = use("http://127.0.0.1:9", "t5-small", tmp_path)
    assert answer["error"] == "HubUnreachable"
    assert "copy the model's folder here" in answer["message"]
    assert "Did you mean" not in answer["message"]


@pytest.mark.parametrize("name", ["minilmm", "MiniLM", "all-MiniLM-L6-v2"])
def test_a_name_that_is_nearly_one_of_ours_is_asked_about(tmp_path: Path, name: str) -> None:
    answer = use("http://127.0.0.1:9", name, tmp_path)
    assert answer["message"].endswith("Did you mean minilm?")


def test_offline_mode_is_a_hub_that_does_not_answer(tmp_path: Path) -> None:
    answer = use("http://127.0.0.1:9", "t5-small", tmp_path, HF_HUB_OFFLINE="1")
    assert answer["error"] == "HubUnreachable"


def test_an_id_that_the_hub_does_not_have_is_not_found(small_t5: Path, tmp_path: Path) -> None:
    with hub("t5-small", small_t5) as (endpoint, _):
        answer = use(endpoint, "nobody/nothing", tmp_path)
    assert answer["error"] == "ModelNotFound"
    assert "check the name" in answer["message"]


def test_a_model_that_is_not_in_the_cache_of_a_machine_told_to_stay_offline_says_so(tmp_path: Path) -> None:
    answer = use("http://127.0.0.1:9", "some/model", tmp_path, HF_HUB_OFFLINE="1")
    assert answer["error"] == "HubUnreachable"
    assert "HF_HUB_OFFLINE is set" in answer["message"]
    assert "does not answer" not in answer["message"]
