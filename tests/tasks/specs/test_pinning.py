"""Models are pinned by the hash of their files or a commit."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from pathlib import Path

import pytest
from transformers import BertConfig, BertForSequenceClassification

from docmill.tasks import errors
from docmill.tasks.errors import ModelNotFound
from docmill.tasks.models import weights
from docmill.tasks.specs import pinning
from tests.tasks.conftest import EXAMPLES

SYNOPSIS = EXAMPLES / "models" / "synopsis-ddtp"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SYNOPSIS, tmp_path / "models" / "mine"))


def pin(model: str, tmp_path: Path, models_dir: Path | None = None, revision: str | None = None) -> pinning.Pinned:
    return pinning.pin(model, models_dir=models_dir, cache_dir=tmp_path / "cache", revision=revision)


@pytest.mark.parametrize("alias", sorted(pinning.ALIASES.keys() - {"null", "patterns"}))
def test_every_alias_is_pinned_by_the_hash_of_its_files_and_described(alias: str, tmp_path: Path) -> None:
    pinned = pin(alias, tmp_path)
    assert pinned.model == alias
    assert pinned.revision.startswith("sha256:")
    assert pinning.locate(pinned, models_dir=None, cache_dir=tmp_path / "cache").is_dir()
    assert pinning.DESCRIPTIONS[alias]


def test_a_folder_is_pinned_under_its_whole_path(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copied.parent)
    assert pin("mine", tmp_path) == pinning.Pinned(str(copied), pin(str(SYNOPSIS), tmp_path).revision)


def test_a_name_in_the_models_directory_is_kept_as_it_is(copied: Path, tmp_path: Path) -> None:
    pinned = pin("mine", tmp_path, models_dir=copied.parent)
    assert pinned.model == "mine"
    assert pinning.locate(pinned, models_dir=copied.parent, cache_dir=tmp_path / "cache") == copied


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "vocab.json", "model.safetensors"])
def test_a_changed_file_is_found_before_anything_is_computed(copied: Path, tmp_path: Path, name: str) -> None:
    pinned = pin(str(copied), tmp_path)
    data = (copied / name).read_bytes()
    (copied / name).write_bytes(data[:-1])
    with pytest.raises(errors.ModelCorrupt, match="copy the model again"):
        pinning.locate(pinned, models_dir=None, cache_dir=tmp_path / "cache")


def test_a_readme_does_not_change_the_revision(copied: Path, tmp_path: Path) -> None:
    before = pin(str(copied), tmp_path)
    (copied / "README.md").write_text("About")
    assert pin(str(copied), tmp_path) == before


def test_large_files_are_hashed_once(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = pin(str(copied), tmp_path)
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    assert pin(str(copied), tmp_path) == before


def test_another_revision_than_the_files_have_is_refused(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.ModelCorrupt):
        pin(str(copied), tmp_path, revision="sha256:00")


@pytest.mark.parametrize(
    "name", ["./missing", "model.gguf", "/no/such/folder", "package:no_such_package/model", "a b"]
)
def test_a_model_that_is_nowhere_is_not_found(name: str, tmp_path: Path) -> None:
    with pytest.raises(errors.ModelNotFound):
        pin(name, tmp_path)


def test_a_folder_without_weights_is_not_a_model(copied: Path, tmp_path: Path) -> None:
    (copied / "model.safetensors").unlink()
    with pytest.raises(errors.ModelNotFound, match="no weights"):
        pin(str(copied), tmp_path)


def test_only_files_that_can_change_an_output_matter() -> None:
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


def test_check_says_what_a_model_is_good_for(tmp_path: Path) -> None:
    checked = pinning.check("synopsis-ddtp", models_dir=None, cache_dir=tmp_path)
    assert (checked.family, checked.architecture) == ("encoder-decoder", "MarianMTModel")
    assert {"summarize", "translate"} <= set(checked.kinds)
    assert checked.window_limit == 512
    assert (checked.size_bytes or 0) > 1_000_000
    embedder = pinning.check("minilm", models_dir=None, cache_dir=tmp_path)
    assert (embedder.family, embedder.window_limit) == ("encoder-only", 256)
    assert embedder.kinds == ("summarize", "embed")


def test_every_error_pickles_and_says_its_docstring_by_default() -> None:
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.TaskError):
            again = pickle.loads(pickle.dumps(kind("a reason")))
            assert (type(again), str(again)) == (kind, "a reason"), name
            assert str(kind()) in (kind.__doc__ or "")


def test_a_file_in_place_of_a_models_folder_is_told_what_a_model_is(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ModelNotFound, match=r"is a file\. A model is a folder"):
        pinning.pin(str(file), models_dir=None, cache_dir=tmp_path / "cache")


def test_an_adapter_is_named_as_one_with_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base", "peft_type": "LORA"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelNotFound, match=r"is an adapter of some/base.*with --adapter"):
        pinning.pin(str(tmp_path), models_dir=None, cache_dir=tmp_path / "cache")


def test_a_classifiers_head_is_named_where_its_encoder_embeds(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    found = pinning.check(str(tmp_path / "model"), models_dir=None, cache_dir=tmp_path / "cache")
    assert found.kinds == ("summarize", "embed", "classify")
    assert found.head == "sequence classification"
