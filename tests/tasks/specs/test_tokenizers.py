"""Tokenizers of served models: pinned by the hash of their files or by a commit of the hub."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.errors import BadOption, ModelCorrupt, ModelNotFound
from docmill.tasks.specs import tokenizers
from docmill.tasks.specs.pinning import Pinned
from docmill.tasks.specs.plan import build_spec
from tests.tasks.backends.remote.test_counting import MINILM
from tests.tasks.hub_server import COMMIT, Hub, serving
from tests.worker.harness import run_program

SERVED = Pinned("openai:small", "served")


def copied(target: Path) -> Path:
    """Return a folder with a tokenizer."""
    target.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(MINILM / name, target)
    return target


def pinned(name: str, folder: Path, models_dir: Path | None = None) -> Spec:
    """Return the spec of a served model with a tokenizer."""
    found = tokenizers.with_tokenizer(SERVED, name, models_dir=models_dir, cache_dir=folder / "cache")
    options = kinds.options("embed", tokenizer=name)
    return build_spec("embed", found, options, {}, None)


def test_a_folder_is_pinned_by_the_files_of_its_tokenizer_alone(tmp_path: Path) -> None:
    folder = copied(tmp_path / "tokenizer")
    spec = pinned(str(folder), tmp_path)
    assert spec.params["tokenizer"] == str(folder)
    assert spec.params["tokenizer_revision"].startswith("sha256:")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("A tokenizer.")
    assert pinned(str(folder), tmp_path) == spec
    assert tokenizers.locate(spec, models_dir=None, cache_dir=tmp_path / "cache") == folder
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    other = pinned(str(folder), tmp_path)
    assert other.sha256 != spec.sha256
    with pytest.raises(ModelCorrupt, match="not those that the job was made with"):
        tokenizers.locate(spec, models_dir=None, cache_dir=tmp_path / "cache")


def test_a_name_in_the_models_directory_is_followed_on_another_machine(tmp_path: Path) -> None:
    models = tmp_path / "here"
    copied(models / "small")
    spec = pinned("small", tmp_path, models)
    assert spec.params["tokenizer"] == "small"
    shutil.copytree(models, tmp_path / "there")
    found = tokenizers.locate(spec, models_dir=tmp_path / "there", cache_dir=tmp_path / "cache")
    assert found == tmp_path / "there" / "small"
    with pytest.raises(ModelNotFound, match="The tokenizer small was a folder where the job was made"):
        tokenizers.locate(spec, models_dir=None, cache_dir=tmp_path / "cache")


def test_what_is_no_tokenizer_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, error, said in [
        (str(tmp_path / "empty"), ModelCorrupt, "has no tokenizer: put the model's tokenizer.json there"),
        (str(tmp_path / "nothing"), ModelNotFound, "neither a folder here nor a hub id"),
    ]:
        with pytest.raises(error, match=said):
            tokenizers.with_tokenizer(SERVED, name, models_dir=None, cache_dir=tmp_path)
    local = Pinned("minilm", "sha256:1")
    with pytest.raises(BadOption, match="--tokenizer is for models on a server: minilm has its own"):
        tokenizers.with_tokenizer(local, str(MINILM), models_dir=None, cache_dir=tmp_path)
    with pytest.raises(BadOption, match="--tokenizer is for one model on a server"):
        build_spec("embed", replace(SERVED), kinds.options("embed", tokenizer="x"), {}, None)


def test_a_spec_without_a_tokenizer_is_what_it_was(tmp_path: Path) -> None:
    spec = build_spec("embed", SERVED, kinds.options("embed"), {}, None)
    assert not {tokenizers.NAME, tokenizers.REVISION} & spec.params.keys()
    assert tokenizers.locate(spec, models_dir=None, cache_dir=tmp_path) is None


PROGRAM = """
import json, os, sys
from pathlib import Path
from docmill.storage.core.specs import Spec
from docmill.tasks.errors import TaskError
from docmill.tasks.specs import tokenizers
from docmill.tasks.specs.pinning import Pinned

answers, cache = [], Path(sys.argv[1])
for name in ("org/model", "org/weights", "org/nothing"):
    try:
        pinned = tokenizers.with_tokenizer(Pinned("openai:small", "served"), name, models_dir=None, cache_dir=cache)
        folder = tokenizers.locate(Spec("embed", "x", "y", params=pinned.beside), models_dir=None, cache_dir=cache)
        answers.append([dict(pinned.beside), sorted(path.name for path in folder.iterdir())])
    except TaskError as error:
        answers.append([type(error).__name__, str(error)])
print(json.dumps(answers))
"""


@pytest.mark.slow
def test_a_tokenizer_of_the_hub_is_pinned_by_its_commit_and_fetched_once_without_weights(tmp_path: Path) -> None:
    model, weights = copied(tmp_path / "model"), tmp_path / "weights"
    weights.mkdir()
    for folder in (model, weights):
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"0" * 100)
    home = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with serving(Hub({"org/model": model, "org/weights": weights})) as hub:
        settings = {**os.environ, **home, "HF_ENDPOINT": hub.endpoint}
        found, *refused = json.loads(run_program(PROGRAM, tmp_path / "cache", environment=settings))
        assert not any("safetensors" in path for path in hub.sent)
    assert found == [
        {"tokenizer": "org/model", "tokenizer_revision": COMMIT},
        ["config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"],
    ]
    assert refused[0] == ["ModelNotFound", "org/weights on the hub has no tokenizer that docmill reads."]
    assert refused[1][0] == "ModelNotFound"
    # The hub is away: what was fetched is used.
    settings = {**os.environ, **home, "HF_ENDPOINT": hub.endpoint}
    again, *_ = json.loads(run_program(PROGRAM, tmp_path / "cache", environment=settings))
    assert again == found
