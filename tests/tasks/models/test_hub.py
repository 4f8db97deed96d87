"""A hub id is pinned to its commit and downloaded from a hub of our own.

Each test starts a process, since the hub's client reads its settings at import.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from docmill.tasks.errors import HubUnreachable
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from tests.tasks import architectures
from tests.tasks.fakes import raising
from tests.tasks.hub_server import COMMIT, Hub, environment, serving
from tests.worker.harness import run_program

PROGRAM = """
import json, sys
from pathlib import Path
from docmill.tasks.errors import TaskError
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning

folders, answers = ModelFolders(None, Path(sys.argv[1])), []
for model in sys.argv[2:]:
    try:
        pinned = pinning.pin(model, folders)
        config = pinning.read_config(pinned, folders)
        folder = pinning.locate(pinned, folders)
        files = sorted(path.name for path in folder.iterdir())
        window = pinning.check(model, folders).window_limit
        answers.append(
            {"revision": pinned.revision, "type": config["model_type"], "window": window, "files": files}
        )
    except TaskError as error:
        answers.append({"error": type(error).__name__, "message": str(error)})
print(json.dumps(answers))
"""


def pin_in_process(endpoint: str, home: Path, *models: str, **variables: str) -> list[dict[str, Any]]:
    """Return the revision, type, window and files of each model on a hub, or its error."""
    settings = {**os.environ, **environment(endpoint, home), **variables}
    answers: list[dict[str, Any]] = json.loads(run_program(PROGRAM, home / "docmill", *models, environment=settings))
    return answers


@pytest.fixture(scope="module")
def small_t5(tmp_path_factory: pytest.TempPathFactory, descriptions: list[str]) -> Path:
    folder = architectures.t5(tmp_path_factory.mktemp("hub") / "t5-small", descriptions[:40])
    tokenizer = folder / "tokenizer_config.json"
    tokenizer.write_text(json.dumps({**json.loads(tokenizer.read_text()), "model_max_length": 77}))
    (folder / "pytorch_model.bin").write_bytes(b"must not be fetched")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"nor this")
    return folder


def test_a_hub_id_is_pinned_to_its_commit_and_downloaded_then_works_offline(small_t5: Path, tmp_path: Path) -> None:
    with serving(Hub({"t5-small": small_t5})) as hub:
        answer, missing = pin_in_process(hub.endpoint, tmp_path, "t5-small", "nobody/nothing")
        assert (answer["revision"], answer["type"], answer["window"]) == (COMMIT, "t5", 77)
        assert "model.safetensors" in answer["files"]
        assert not {"pytorch_model.bin", "model.onnx"} & {path.rpartition("/")[2] for path in hub.asked}
        assert missing["error"] == "ModelNotFound"
        assert "check the name" in missing["message"]
    # The hub is gone. The cache still knows the commit and has its files.
    cached, missing = pin_in_process(hub.endpoint, tmp_path, "t5-small", "some/model")
    assert cached == answer
    assert missing["error"] == "HubUnreachable"
    assert "copy the model's folder here" in missing["message"]
    assert "Did you mean" not in missing["message"]
    (offline,) = pin_in_process(hub.endpoint, tmp_path, "some/model", HF_HUB_OFFLINE="1")
    assert offline["error"] == "HubUnreachable"
    assert "HF_HUB_OFFLINE is set" in offline["message"]


@pytest.mark.parametrize("name", ["minilmm", "all-MiniLM-L6-v2"])
def test_an_error_proposes_a_model_of_ours_with_a_similar_name(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("docmill.tasks.models.hub.commit_of", raising(HubUnreachable))
    with pytest.raises(HubUnreachable, match=r"Did you mean minilm\?$"):
        pinning.pin(name, ModelFolders(None, tmp_path))
