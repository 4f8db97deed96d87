"""Damaged copies of models are refused before anything is stored or loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from docmill.tasks.errors import ModelCorrupt
from docmill.tasks.models.weights import ModelFolders, hash_of, require_whole
from docmill.tasks.specs import pinning
from tests.tasks import architectures


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory, descriptions: list[str]) -> Path:
    return architectures.bert(tmp_path_factory.mktemp("models") / "bert", descriptions[:20])


def shorten(name: str, to: float) -> Callable[[Path], None]:
    """Return a function that keeps the first part of a file."""

    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * to)])

    return damage


def lengthen(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"\0")


def write(name: str, data: bytes) -> Callable[[Path], None]:
    """Return a function that replaces a file."""

    def damage(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return damage


def remove(name: str) -> Callable[[Path], None]:
    """Return a function that removes a file."""
    return lambda folder: (folder / name).unlink()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
DAMAGES = {
    "weights cut short": (shorten("model.safetensors", 0.6), "model.safetensors has .* bytes instead of"),
    "weights cut in the header": (shorten("model.safetensors", 0.0001), "no whole safetensors file"),
    "weights too long": (lengthen, "bytes instead of"),
    "a web page": (write("model.safetensors", b"<!doctype html><html>" * 9), "no whole safetensors file"),
    "no header": (write("model.safetensors", (4).to_bytes(8, "little") + b"none"), "is no safetensors file"),
    "a pointer": (write("model.safetensors", POINTER), "run `git lfs pull`"),
    "a config cut short": (shorten("config.json", 0.5), "config.json is not whole"),
    "no source.spm": (remove("source.spm"), "lacks source.spm of its tokenizer"),
    "no vocabulary": (remove("vocab.json"), "lacks vocab.json of its tokenizer"),
}


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_damaged_copy_is_refused_before_anything_is_made_of_it(copied: Path, tmp_path: Path, damage: str) -> None:
    break_it, message = DAMAGES[damage]
    break_it(copied)
    with pytest.raises(ModelCorrupt, match=message):
        pinning.pin(str(copied), ModelFolders(None, tmp_path / "cache"))


def test_a_model_is_hashed_although_the_cache_cannot_be_written(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    hashes = {hash_of(bert, ["config.json"], tmp_path / cache) for cache in ("file", "cache", "cache")}
    assert len(hashes) == 1


def test_every_shard_of_an_index_must_be_there(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "model-00001-of-00002.safetensors")
    shards = {"one": "model-00001-of-00002.safetensors", "two": "model-00002-of-00002.safetensors"}
    (copied / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ModelCorrupt, match=r"lacks model-00002-of-00002\.safetensors"):
        require_whole(copied)
    shutil.copyfile(copied / shards["one"], copied / shards["two"])
    require_whole(copied)


def test_a_pickle_cut_short_is_found_by_its_missing_table(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    torch.save({"weights": torch.zeros(1000)}, copied / "pytorch_model.bin")
    require_whole(copied)
    shorten("pytorch_model.bin", 0.9)(copied)
    with pytest.raises(ModelCorrupt, match="cut short"):
        require_whole(copied)


def test_a_model_without_a_tokenizer_is_refused_and_any_kind_of_vocabulary_is_enough(
    bert: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(bert, tmp_path / "bert"))
    require_whole(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelCorrupt, match=r"has no tokenizer: put the model's tokenizer\.json there"):
        require_whole(folder)
    (folder / "vocab.txt").write_text("[UNK]\n")
    require_whole(folder)


@pytest.mark.parametrize(("kind", "refused"), [("Transformer", True), ("StaticEmbedding", False)])
def test_the_tokenizer_of_a_sentence_transformer_lies_with_its_first_module(
    bert: Path, tmp_path: Path, kind: str, refused: bool
) -> None:
    folder = tmp_path / "sentence"
    inner = Path(shutil.copytree(bert, folder / "0_Transformer"))
    modules = [{"idx": 0, "name": "0", "path": "0_Transformer", "type": f"sentence_transformers.models.{kind}"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    require_whole(folder)
    (inner / "tokenizer.json").unlink()
    if refused:
        with pytest.raises(ModelCorrupt, match="has no tokenizer"):
            require_whole(folder)
    else:
        require_whole(folder)
